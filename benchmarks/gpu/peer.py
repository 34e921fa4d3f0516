#!/usr/bin/env python3
"""What one would run instead of Tunesmith on the same GPU, transformers and PEFT: prints `gpu_speed`'s line of JSON.

    python3 benchmarks/gpu/peer.py --model FOLDER [options]

A plain torch loop, as fast as we know how to write it by hand. The model is FOLDER's `config.json` with random weights in bf16 and
LoRA of rank 8 on all linear layers; the adapter is bf16 too, with a fused AdamW on f32 copies. Sequences are of equal length, so
that nothing is padded, and attention is causal without a mask. Only labelled positions are projected onto the vocabulary.
The host goes ahead of the device and waits for it once, at the end. Nothing is compiled. Where memory does not hold a batch,
blocks are computed again in the backward pass; where that is not enough, the batch is halved.
"""

import argparse
import gc
import importlib.util
import json
import os
import sys
import time
from pathlib import Path

LEARNING_RATE = 1e-4
WARM_UP = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--shape", required=True, help="the model's name in the report")
    parser.add_argument("--method", choices=["sft", "dpo"], default="sft")
    parser.add_argument("--tokens", type=int, default=8192, help="of a batch")
    parser.add_argument("--length", type=int, default=512, help="of a sequence")
    parser.add_argument("--labels", type=int, help="of SFT: last tokens that have a label (default: all)")
    parser.add_argument("--seconds", type=float, default=3.0, help="for which steps are timed")
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if importlib.util.find_spec("torch") is None:
        sys.exit("no torch here")
    print(json.dumps(report(args)))


def report(args):
    import torch

    loop = Loop(args)
    load_s = seconds_since_start()
    tokens, recompute = args.tokens, False
    while True:
        try:
            measured = loop.measure(batch_of(args, tokens), tokens, recompute)
            break
        except torch.cuda.OutOfMemoryError as error:
            if recompute and tokens <= 2 * args.length:
                raise
            print(f"{tokens} tokens, recompute {recompute}: {str(error).splitlines()[0]}", file=sys.stderr)
        # Outside of the handler, where nothing holds the step's tensors any longer.
        loop.forget()
        tokens, recompute = (tokens // 2, False) if recompute else (tokens, True)
    return {
        "program": "transformers + PEFT",
        "device": loop.describe(),
        "shape": args.shape,
        "method": args.method,
        "attention": loop.attention,
        "recompute": recompute,
        "load_s": load_s,
        **measured,
    }


def batch_of(args, tokens):
    """Sequences of a batch: of DPO, chosen ones and then rejected ones."""
    return 2 * max(tokens // (2 * args.length), 1) if args.method == "dpo" else max(tokens // args.length, 1)


class Loop:
    def __init__(self, args):
        import peft
        import torch
        import transformers

        self.args, self.torch, self.recomputes = args, torch, False
        self.versions = f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
        self.attention = "flash_attention_2" if importlib.util.find_spec("flash_attn") else "sdpa"
        config = transformers.AutoConfig.from_pretrained(args.model)
        config.use_cache = False
        self.vocab = config.vocab_size
        torch.manual_seed(0)
        with torch.device(args.device):
            model = from_config(transformers.AutoModelForCausalLM, config, torch.bfloat16, self.attention)
        lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
        self.model = peft.get_peft_model(model, lora, autocast_adapter_dtype=False).train()
        self.optimizer = Optimizer(torch, [p for p in self.model.parameters() if p.requires_grad])

    def describe(self):
        on_gpu = self.args.device.startswith("cuda")
        return f"{self.torch.cuda.get_device_name() if on_gpu else 'cpu'}, {self.versions}"

    def measure(self, n, tokens, recompute):
        args, torch = self.args, self.torch
        if recompute:
            self.model.enable_input_require_grads()
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif self.recomputes:
            self.model.gradient_checkpointing_disable()
        self.recomputes = recompute
        # A token more than are computed: the last one is only predicted.
        ids = torch.randint(self.vocab, (n, args.length + 1), device=args.device)
        step = self.sft_step(ids) if args.method == "sft" else self.dpo_step(ids)

        losses, warm_up = [], []
        for _ in range(WARM_UP):
            started = time.perf_counter()
            losses.append(step().item())
            warm_up.append(time.perf_counter() - started)
            if len(losses) == 1:
                first_step_s = seconds_since_start()
        steps = min(max(int(args.seconds / warm_up[-1]), 2), 500)
        step_ms = self.timed(step, steps)
        computed = n * args.length
        measured = {
            "batch": {
                "tokens": tokens,
                "tokens_wanted": args.tokens,
                "length": args.length,
                "examples": n // 2 if args.method == "dpo" else n,
            },
            "n_tokens": computed,
            "n_tokens_flat": n * (args.length + 1),
            "steps": steps,
            "step_ms": step_ms,
            "tokens_per_s": 1e3 * computed / step_ms,
            "flat_tokens_per_s": 1e3 * n * (args.length + 1) / step_ms,
            **self.memory(),
            "first_step_s": first_step_s,
            "first_step_ms": 1e3 * warm_up[0],
            "loss_first": losses[0],
            "loss_last": step().item(),
        }
        if args.method == "dpo":
            again = self.dpo_step(ids, reference_in_step=True)
            again()
            measured["step_ms_with_reference"] = self.timed(again, max(steps // 2, 2))
        measured["launches"] = self.launches(step)
        return measured

    def timed(self, step, n):
        """Milliseconds of a step, of `n` in a row."""
        self.wait()
        started = time.perf_counter()
        for _ in range(n):
            step()
        self.wait()
        return 1e3 * (time.perf_counter() - started) / n

    def sft_step(self, ids):
        F = self.torch.nn.functional
        n_labels = min(self.args.labels or self.args.length, self.args.length)

        def step():
            loss = F.cross_entropy(self.logits(ids, n_labels), ids[:, -n_labels:].flatten())
            loss.backward()
            self.optimizer.step()
            return loss.detach()

        return step

    def dpo_step(self, ids, reference_in_step=False, beta=0.1):
        """Sides that have their first half in common; the answers are the rest. The base is scored with the adapter off, once
        or in each step."""
        torch, F = self.torch, self.torch.nn.functional
        start = self.args.length // 2
        chosen, rejected = ids.chunk(2)
        rejected[:, :start] = chosen[:, :start]
        n_labels = ids.shape[1] - start

        def sums():
            nll = F.cross_entropy(self.logits(ids, n_labels), ids[:, -n_labels:].flatten(), reduction="none")
            return -nll.view(len(ids), -1).sum(1)

        def reference():
            with torch.no_grad(), self.model.disable_adapter():
                return sums()

        cached = None if reference_in_step else reference()

        def step():
            chosen, rejected = (sums() - (reference() if cached is None else cached)).chunk(2)
            loss = -F.logsigmoid(beta * (chosen - rejected)).mean()
            loss.backward()
            self.optimizer.step()
            return loss.detach()

        return step

    def logits(self, ids, n_labels):
        """Of the last `n_labels` tokens, in f32 as transformers' own loss takes them."""
        decoder = self.model.get_base_model()
        states = decoder.model(input_ids=ids[:, :-1], use_cache=False).last_hidden_state[:, -n_labels:]
        return self.torch.nn.functional.linear(states.flatten(0, 1), decoder.lm_head.weight).float()

    def memory(self):
        """What the process holds at its end, which is the most that it held: torch keeps what it once had."""
        if not self.args.device.startswith("cuda"):
            return {}
        free, total = self.torch.cuda.mem_get_info()
        return {"device_mib": (total - free) / 2**20, "allocated_mib": self.torch.cuda.max_memory_allocated() / 2**20}

    def launches(self, step):
        """Kernels of a step, where the profiler works."""
        if not self.args.device.startswith("cuda"):
            return None
        try:
            with self.torch.profiler.profile(activities=[self.torch.profiler.ProfilerActivity.CUDA]) as profiler:
                step()
                self.wait()
            on_device = [e for e in profiler.events() if e.device_type == self.torch.autograd.DeviceType.CUDA]
            return sum(not e.name.startswith(("Memcpy", "Memset")) for e in on_device) or None
        except Exception as error:  # of a tool: the measurement is whole without it
            print(f"no profile: {error}", file=sys.stderr)
            return None

    def forget(self):
        for p in self.model.parameters():
            p.grad = None
        gc.collect()
        self.torch.cuda.empty_cache()
        self.torch.cuda.reset_peak_memory_stats()

    def wait(self):
        if self.args.device.startswith("cuda"):
            self.torch.cuda.synchronize()


class Optimizer:
    """Clips and steps AdamW on f32 copies of the adapter."""

    def __init__(self, torch, adapter):
        self.torch, self.adapter = torch, adapter
        self.copies = [p.detach().float() for p in adapter]
        for copy in self.copies:
            copy.grad = torch.zeros_like(copy)
        self.gradients = [copy.grad for copy in self.copies]
        self.adamw = torch.optim.AdamW(self.copies, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(self):
        with self.torch.no_grad():
            self.torch._foreach_copy_(self.gradients, [p.grad for p in self.adapter])
            self.torch.nn.utils.clip_grad_norm_(self.copies, 1.0, foreach=True)
            self.adamw.step()
            self.torch._foreach_copy_(self.adapter, self.copies)
        for p in self.adapter:
            p.grad = None


def from_config(kind, config, dtype, attention):
    """By the argument's name in this version of transformers."""
    try:
        return kind.from_config(config, dtype=dtype, attn_implementation=attention)
    except TypeError:
        return kind.from_config(config, torch_dtype=dtype, attn_implementation=attention)


def seconds_since_start():
    """Wall time since the system started this process: imports count."""
    after_name = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(after_name[19]) / os.sysconf("SC_CLK_TCK")
    return float(Path("/proc/uptime").read_text().split()[0]) - started


if __name__ == "__main__":
    main()
