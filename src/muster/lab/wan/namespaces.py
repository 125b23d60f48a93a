"""Network namespaces and TUN devices by the kernel's own calls: no `ip` command is needed. Knows no router.

A namespace made here has no name in `/run/netns`: it lives as long as somebody holds its descriptor or runs in it. So
whatever ends the process that holds them, with `kill -9` too, nothing is left behind but programs that still run there.
"""

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import TypeVar

from muster.errors import MachineTrouble

TUN_PATH = Path("/dev/net/tun")
MTU_BYTES = 1500
"""As on most real paths, so that a lost packet is as much of a loss as there."""
QUEUE_PACKETS = 10_000
"""Between the kernel and the router; a burst that finds it full would be lost without the scenario saying so."""

_CLONE_NEWNS, _CLONE_NEWUTS, _CLONE_NEWNET = 0x00020000, 0x04000000, 0x40000000
_MS_BIND, _MS_REC, _MS_SLAVE = 0x1000, 0x4000, 0x80000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI, _IFF_TUN_EXCL = 0x0001, 0x1000, 0x8000
_IFF_UP, _IFF_RUNNING = 0x1, 0x40
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8914, 0x8916, 0x891C, 0x8922, 0x8943
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class HostNamespace:
    """A namespace and the router's end of its device. Both are descriptors of this process."""

    namespace: int
    device: int

    @property
    def inode(self) -> int:
        """What programs in it have as `/proc/PID/ns/net`."""
        return os.stat(self.namespace).st_ino


def check_able() -> None:
    """Raises `MachineTrouble` where namespaces or devices cannot be made."""
    if os.geteuid() != 0:
        raise MachineTrouble("The lab makes network namespaces, which takes root; run it with sudo.")
    try:
        os.close(os.open(TUN_PATH, os.O_RDWR))
    except OSError as error:
        raise MachineTrouble(
            f"The lab needs the device {TUN_PATH} ({error.strerror}); load it with `modprobe tun`, or start a "
            "container with --device /dev/net/tun --cap-add NET_ADMIN --cap-add SYS_ADMIN."
        ) from None


def new_namespace(device: str, address: IPv4Interface) -> HostNamespace:
    """A new namespace in which `device` has `address`, with a loopback device."""

    def make() -> HostNamespace:
        _call("unshare", _CLONE_NEWNET)
        namespace = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        _set_up("lo")
        return HostNamespace(namespace, new_device(device, address))

    return in_thread(make)


def new_device(name: str, address: IPv4Interface) -> int:
    """A TUN device with `address` in the namespace of this thread; it goes when its descriptor is closed."""
    device = os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK)
    try:
        request = struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_TUN_EXCL)
        fcntl.ioctl(device, _TUNSETIFF, request)
        _set_number(name, _SIOCSIFTXQLEN, QUEUE_PACKETS)
        _set_number(name, _SIOCSIFMTU, MTU_BYTES)
        _set_address(name, _SIOCSIFADDR, address.ip.packed)
        _set_address(name, _SIOCSIFNETMASK, address.netmask.packed)
        _without_ipv6(name)
        _set_up(name)
    except OSError:
        os.close(device)
        raise
    return device


def enter(namespace: Path, hosts_file: Path, name: str) -> None:
    """Move this thread, and what it starts, into the namespace; `hosts_file` is its /etc/hosts, `name` its own."""
    enter_network(namespace)
    _call("unshare", _CLONE_NEWNS | _CLONE_NEWUTS)
    socket.sethostname(name)
    _call("mount", None, b"/", None, _MS_REC | _MS_SLAVE, None)
    _call("mount", bytes(hosts_file), b"/etc/hosts", None, _MS_BIND, None)


def enter_network(namespace: Path) -> None:
    """Of this thread alone. A socket belongs to the namespace in which it was made, whoever uses it."""
    descriptor = os.open(namespace, os.O_RDONLY)
    try:
        _call("setns", descriptor, _CLONE_NEWNET)
    finally:
        os.close(descriptor)


def in_thread(make: Callable[[], _T]) -> _T:
    """Namespaces belong to threads: one that dies takes its change with it."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(make).result()


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        if code in (errno.EPERM, errno.EINVAL, errno.ENOSYS):
            raise MachineTrouble(
                f"This kernel or container does not allow {name} ({os.strerror(code)}); run the lab on a machine where "
                "root may make network namespaces, or a container with --cap-add SYS_ADMIN."
            )
        raise OSError(code, os.strerror(code))


def _set_number(name: str, request: int, number: int) -> None:
    _configure(request, struct.pack("16si20x", name.encode(), number))


def _set_address(name: str, request: int, packed: bytes) -> None:
    _configure(request, struct.pack("16sHH4s16x", name.encode(), socket.AF_INET, 0, packed))


def _set_up(name: str) -> None:
    _configure(_SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), _IFF_UP | _IFF_RUNNING))


def _configure(request: int, argument: bytes) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, request, argument)


def _without_ipv6(name: str) -> None:
    """The router knows no IPv6; a host that has it would try it first."""
    switch = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    if switch.exists() and os.access(switch, os.W_OK):
        switch.write_text("1")
