#!/usr/bin/env python3
"""Compiles the .cu files of this folder to the .ptx files beside them, with NVRTC 12.8.

NVRTC comes from PyPI, without the CUDA toolkit:

    pip download --no-deps nvidia-cuda-nvrtc-cu12==12.8.93 && unzip nvidia_cuda_nvrtc_cu12-*.whl
    python3 build.py nvidia/cuda_nvrtc/lib
"""

import argparse
import ctypes
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
OPTIONS = ["--gpu-architecture=compute_80", "--std=c++17", "--generate-line-info", f"--include-path={FOLDER}"]


def compile_kernel(nvrtc: ctypes.CDLL, source: Path) -> str:
    """The PTX of a .cu file. Its name goes in without a folder, since line information carries it."""
    program = ctypes.c_void_p()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.read_bytes(), source.name.encode(), 0, None, None)
    options = (ctypes.c_char_p * len(OPTIONS))(*[option.encode() for option in OPTIONS])
    status = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), options)

    def text(size_of, get) -> str:
        size = ctypes.c_size_t()
        size_of(program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        get(program, buffer)
        return buffer.value.decode()

    if status:
        raise SystemExit(text(nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog))
    ptx = text(nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
    # Included files are named with their folder: that of this machine is nobody's business.
    return f"// tunesmith: {source.name}\n" + ptx.replace(f"{FOLDER}/", "")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("libraries", type=Path, help="the folder with libnvrtc.so.12")
    arguments.add_argument("sources", type=Path, nargs="*", help="only these, not all of the folder's")
    parsed = arguments.parse_args()
    ctypes.CDLL(str(parsed.libraries / "libnvrtc-builtins.so.12.8"), mode=ctypes.RTLD_GLOBAL)
    nvrtc = ctypes.CDLL(str(parsed.libraries / "libnvrtc.so.12"))
    for source in parsed.sources or sorted(FOLDER.glob("*.cu")):
        source.with_suffix(".ptx").write_text(compile_kernel(nvrtc, source))


if __name__ == "__main__":
    main()
