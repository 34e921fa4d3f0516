#!/usr/bin/env python3
"""The kernels as PTX: what ships, beside its source.

    kernels/build.py            compile every .cu here into ptx/
    kernels/build.py --check    compile and compare with what is in ptx/; fail on any difference
    kernels/build.py --ptxas    registers, spills and shared memory of every kernel on each architecture, and the budgets

The compiler is NVRTC of one version, a package of the Python index (88 MB), fetched once into target/nvrtc/.
"""

import argparse
import concurrent.futures
import ctypes
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zipfile

KERNELS = pathlib.Path(__file__).resolve().parent
PTX = KERNELS / "ptx"
CACHE = KERNELS.parent.parent / "target" / "nvrtc"

# PTX of 12.8 (ISA 8.7) loads on every driver from 12.8 on; that of 13.0 would need driver 580.
NVRTC = "nvidia-cuda-nvrtc-cu12==12.8.93"
PTXAS = "nvidia-cuda-nvcc-cu12==12.8.93"
# compute_80 has what the kernels use: bf16 tensor cores, cp.async. The driver compiles it for the device at hand.
OPTIONS = ["--gpu-architecture=compute_80", "--std=c++17", "--generate-line-info", "--fmad=true"]
ARCHITECTURES = ["sm_80", "sm_86", "sm_87", "sm_89", "sm_90"]


def package(requirement: str) -> pathlib.Path:
    """The unpacked wheel."""
    folder = CACHE / requirement.replace("==", "-")
    if not (folder / "complete").exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as wheels:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, requirement]
            subprocess.run(command, check=True)
            for wheel in pathlib.Path(wheels).glob("*.whl"):
                zipfile.ZipFile(wheel).extractall(folder)
        (folder / "complete").touch()
    return folder


class Nvrtc:
    def __init__(self):
        libraries = package(NVRTC) / "nvidia" / "cuda_nvrtc" / "lib"
        # The builtins are opened first, by path: NVRTC looks for them by name.
        ctypes.CDLL(str(next(libraries.glob("libnvrtc-builtins.so.*"))), mode=ctypes.RTLD_GLOBAL)
        self.library = ctypes.CDLL(str(next(libraries.glob("libnvrtc.so.*"))), mode=ctypes.RTLD_GLOBAL)
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def call(self, function: str, *arguments):
        status = getattr(self.library, function)(*arguments)
        if status:
            raise RuntimeError(f"{function}: {self.library.nvrtcGetErrorString(status).decode()}")

    def text(self, what: str, program) -> str:
        size = ctypes.c_size_t()
        self.call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self.call(f"nvrtcGet{what}", program, buffer)
        return buffer.value.decode()

    def compile(self, source: str, name: str, folder: pathlib.Path) -> str:
        """PTX of `source`; includes are looked for in `folder`."""
        program = ctypes.c_void_p()
        self.call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
        options = [option.encode() for option in [*OPTIONS, f"--include-path={folder}"]]
        array = (ctypes.c_char_p * len(options))(*options)
        status = self.library.nvrtcCompileProgram(program, len(options), array)
        if status:
            raise SystemExit(f"{name} does not compile:\n{self.text('ProgramLog', program)}")
        ptx = self.text("PTX", program)
        self.call("nvrtcDestroyProgram", ctypes.byref(program))
        return tidy(ptx, name)


def tidy(ptx: str, name: str) -> str:
    """The text that is committed: named, and without the paths of the machine that made it."""
    ptx = re.sub(r'(\.file\s+\d+\s+")[^"]*/([^"/]+")', r"\1\2", ptx)
    return f"// tunesmith: {name}\n{ptx}"


def sources() -> list[pathlib.Path]:
    return sorted(KERNELS.glob("*.cu"))


def ptx_of(source: pathlib.Path) -> pathlib.Path:
    return PTX / f"{source.stem}.ptx"


def build(check: bool) -> int:
    nvrtc, stale = Nvrtc(), []
    wanted = {ptx_of(source) for source in sources()}
    for source in sources():
        ptx = nvrtc.compile(source.read_text(), source.name, KERNELS)
        path = ptx_of(source)
        if path.exists() and path.read_text() == ptx:
            continue
        stale.append(path.name)
        if not check:
            PTX.mkdir(exist_ok=True)
            path.write_text(ptx)
    for extra in set(PTX.glob("*.ptx")) - wanted:
        stale.append(f"{extra.name} (no source)")
        if not check:
            extra.unlink()
    if check and stale:
        print(f"not what its source compiles to: {', '.join(stale)}; run {sys.argv[0]}")
        return 1
    print(f"{len(wanted)} files of PTX, {'all as committed' if not stale else f'written: {len(stale)}'}")
    return 0


def resources(architecture: str, ptx: pathlib.Path) -> list[dict]:
    """What ptxas says of each kernel of a file."""
    assembler = package(PTXAS) / "nvidia" / "cuda_nvcc" / "bin" / "ptxas"
    assembler.chmod(0o755)
    with tempfile.NamedTemporaryFile() as cubin:
        command = [assembler, "-v", f"-arch={architecture}", ptx, "-o", cubin.name]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    kernels = []
    for part in log.split("Compiling entry function")[1:]:
        number = lambda pattern: int((re.search(pattern, part) or [0, 0])[1])
        kernels.append({
            "kernel": re.search(r"'(\w+)'", part)[1],
            "architecture": architecture,
            "registers": number(r"Used (\d+) registers"),
            "spill_bytes": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
            "shared_bytes": number(r"(\d+) bytes smem"),
        })
    return kernels


def assemble() -> int:
    budgets = json.loads((KERNELS / "budgets.json").read_text())
    jobs = [(architecture, ptx_of(source)) for source in sources() for architecture in ARCHITECTURES]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        rows = [row for rows in pool.map(lambda job: resources(*job), jobs) for row in rows]
    by_kernel: dict[str, list[dict]] = {}
    for row in rows:
        by_kernel.setdefault(row["kernel"], []).append(row)
    print(f"{'kernel':40}" + "".join(f"{architecture:>16}" for architecture in ARCHITECTURES))
    print(f"{'':40}" + f"{'reg/spill/smem':>16}" * len(ARCHITECTURES))
    over = []
    for kernel, rows in sorted(by_kernel.items()):
        cells = [f"{row['registers']}/{row['spill_bytes']}/{row['shared_bytes']}" for row in rows]
        print(f"{kernel:40}" + "".join(f"{cell:>16}" for cell in cells))
        if kernel not in budgets:
            over.append(f"{kernel} has no budget")
            continue
        for row in rows:
            for what, most in budgets[kernel].items():
                if row[what] > most:
                    over.append(f"{kernel} on {row['architecture']}: {what} {row[what]}, budget {most}")
    over += [f"{kernel} has a budget and is no kernel" for kernel in budgets if kernel not in by_kernel]
    for line in over:
        print(f"OVER BUDGET  {line}")
    return 1 if over else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with what is committed instead of writing it")
    parser.add_argument("--ptxas", action="store_true", help="print and check what each kernel takes of a device")
    arguments = parser.parse_args()
    return assemble() if arguments.ptxas else build(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
