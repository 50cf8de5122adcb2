"""What must hold of the kernels' PTX, because a C++ compiler that builds the same source reads it otherwise.

* Each kernel states how many threads a block has at most, the number in THREADS.
* A conversion to 16 bits rounds to nearest. bfloat16 has no instruction for sm_75: there half of the last place, less
  one, is added in integers.
* No load goes through the read-only cache (ld.global.nc, which __ldg makes) where the kernel writes the same memory: to
  an array that it stores to, or to one whose memory a result may take (ALIASES).
"""

import re

# Threads of a block, by the name and the first arguments of the kernel.
THREADS = (
    (r"ForwardKernelI", 256),
    (r"BackwardKernelI", 128),
    (r"Hidden(Sums)?KernelI", 256),
    (r"LatticeKernelI.*?Lb1ELb", 32),
    (r"LatticeKernelI.*?Lb0ELb", 512),
    (r"ShortKernelIfLi1ELi\dE", 1024),
    (r"ShortKernelIfLi8ELi9E", 320),
    (r"ShortKernelIf", 512),
    (r"ShortKernelIdLi1ELi\dE", 384),
    (r"ShortKernelIdLi8ELi9E", 128),
    (r"ShortKernelId", 256),
    (r"PosteriorKernel", 256),
    (r"CostKernel", 256),
)
# Places of pointers among a kernel's arguments, in bytes, whose memory the kernel's result may be: those of the logits
# and of the sums before.
ALIASES = {"BackwardKernel": frozenset({0}), "HiddenSumsKernel": frozenset({24})}
TO_16_BITS = re.compile(r"\bcvt((?:\.\w+)*)\.(?:b?f16|b?f16x2)\.f32\b")
HALFWAY = re.compile(r"\badd\.s32\s[^;]*, 32767;")  # half of the last place, less one
ENTRY = re.compile(r"^\s*(?:\.visible |\.weak )?\.entry (\w+)\(.*?^\}", re.MULTILINE | re.DOTALL)
INSTRUCTION = re.compile(r"^\s*(?:@!?%p\d+\s+)?([\w.]+)\s+([^;]*);", re.MULTILINE)
REGISTER = re.compile(r"%rd\d+")


def faults(ptx: str, architecture: str) -> list[str]:
    """What is wrong with the kernels of a PTX text."""
    found = []
    for entry in ENTRY.finditer(ptx):
        name, text = entry[1], entry[0]
        found += [f"{name}: {fault}" for fault in _launch_faults(name, text)]
        found += [f"{name}: {fault}" for fault in _rounding_faults(name, text, architecture)]
        found += [f"{name}: {fault}" for fault in _cache_faults(name, text)]
    return found


def _launch_faults(name: str, text: str) -> list[str]:
    wanted = next((threads for pattern, threads in THREADS if re.search(pattern, name)), None)
    if wanted is None:
        return ["a kernel that ptx_rules.THREADS does not know"]
    stated = re.search(r"\.maxntid (\d+)", text)
    if stated and int(stated[1]) == wanted:
        return []
    return [f"launch bounds of {stated[1] if stated else 'no'} threads, launched with {wanted}"]


def _rounding_faults(name: str, text: str, architecture: str) -> list[str]:
    conversions = TO_16_BITS.findall(text)
    if wrong := sorted({c for c in conversions if ".rn" not in c}):
        return [f"conversion to 16 bits that does not round to nearest: cvt{wrong[0]}"]
    if not re.search(r"BackwardKernel|HiddenKernel", name) or not re.search(r"4Half|8BFloat16", name):
        return []
    by_hand = "8BFloat16" in name and architecture == "75" and HALFWAY.search(text)
    return [] if conversions or by_hand else ["no conversion that rounds to nearest"]


def _cache_faults(name: str, text: str) -> list[str]:
    """Follows addresses back to the pointers among the kernel's arguments that they are made of."""
    definitions: dict[str, list[tuple[str, str]]] = {}
    loads, stores = set(), set()
    for operation, operands in INSTRUCTION.findall(text):
        if operation.startswith("ld.global") and ".nc" in operation:
            loads |= set(REGISTER.findall(operands[operands.index("[") :]))
        elif operation.startswith(("st.global", "st.u", "st.v", "st.f", "st.b")):
            stores |= set(REGISTER.findall(operands[: operands.index("]")]))
        target, _, rest = operands.partition(",")
        definitions.setdefault(target.strip(), []).append((operation, rest))
    parameter = re.search(r"\.param .*?(\w+_param_0)", text)[1]

    def pointers(register: str, seen: set[str]) -> set[int]:
        """The places among the arguments of what an address is made of, where that is a pointer."""
        if register in seen:
            return set()
        seen.add(register)
        places: set[int] = set()
        for operation, operands in definitions.get(register, ()):
            if operation.startswith("ld.param"):
                places |= _place(operands, parameter, definitions)
            elif operation.startswith(("mov", "add", "sub", "cvta", "selp", "mad", "or", "and")):
                for operand in REGISTER.findall(operands):
                    places |= pointers(operand, seen)
        return places

    read, written = (set().union(*(pointers(r, set()) for r in regs)) for regs in (loads, stores))
    written |= next((places for kind, places in ALIASES.items() if kind in name), frozenset())
    if loads and not read:
        return ["a load through the read-only cache from an unknown address"]
    both = sorted(read & written)
    return [f"reads memory that it writes through the read-only cache: the pointer at byte {both[0]}"] if both else []


def _place(operands: str, parameter: str, definitions: dict[str, list[tuple[str, str]]]) -> set[int]:
    """The byte of the arguments that an ld.param reads; its address may have been put into a register before."""
    base, _, offset = operands.strip(" []").partition("+")
    place = int(offset or 0)
    for _ in range(9):
        if base == parameter:
            return {place}
        (operation, source), *_ = definitions.get(base, [("", "")])
        parts = [p.strip() for p in source.split(",")]
        if operation.startswith("add") and len(parts) == 2 and re.fullmatch(r"-?\d+", parts[1]):
            base, place = parts[0], place + int(parts[1])
        elif operation.startswith(("mov", "cvta")):
            base, _, offset = parts[0].partition("+")
            place += int(offset or 0)
        else:
            break
    return set()
