"""Any `nn.Module` as a graph of operators that several machines compute together, forward and back.

    nn.Module ──capture──▶ operators in order ──pieces──▶ one contiguous piece a machine ──joint──▶ forward + backward

Reading order: `program` (calls of public operators as data: what travels, without torch), `capture` (`torch.export`),
`estimate` (what planners read), `pieces` (which values cross between machines), `joint` (a piece's forward and backward
by AOTAutograd, so that whoever runs it needs no autograd of its own). `model/backends` runs pieces.
"""
