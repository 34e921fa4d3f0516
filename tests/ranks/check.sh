#!/usr/bin/env bash
# Runs on several ranks: processes that an MPI library of this machine joins. Fails where there is none
# (`apt install mpich`, which has the library and `mpirun`).
set -euo pipefail
cd "$(dirname "$0")/../.."
cargo test --release --package trainer-cuda --test ranks -- --include-ignored --test-threads=1
# The stand-in for NCCL again, with work on the GPU done as late as it may be: a sum that does not stand between the
# backward pass and the update gives other numbers.
CUDA_EMULATOR_STREAMS=lazy cargo test --release --package trainer-cuda --test ranks -- gpus --test-threads=1
