"""`muster lab`: hosts as network namespaces, joined by a router in user space that delays, drops and paces packets.

Reading order: `layout` (who stands where), `direction` (what happens to a packet), `router` (the loop that moves them),
`namespaces` (the kernel's part), `programs` (what runs on a host), `record` (how others find a lab), `control` (how
they talk to it), `keeper` (the process that a lab is), `lifecycle` (up and down), `hosts` (commands on a host), `brake`
(a host at a share of its speed), `world` (faults).
"""
