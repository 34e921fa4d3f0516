"""Plain torch loops, as fast as we know how to write them by hand: no more padding than the longest sequence of the batch
needs, only labelled rows projected onto the vocabulary, rows tokenised ahead, no gradient checkpointing, a fused AdamW; in
bf16 weights and activations are bf16 and only AdamW's copies of the adapter f32."""

import peft
import torch
import torch.nn.functional as F
import transformers

from peer_tokens import sequence, sft_sequences

LEARNING_RATE = 2e-4


def loop_sft(args, rows, meter):
    tokenizer, model, optimizer = load(args, transformers.AutoModelForCausalLM)
    sequences = sft_sequences(tokenizer, rows, args, model.config.vocab_size)
    for batch in batches(sequences, args):
        meter.begin()
        ids, mask = padded([ids for ids, _ in batch], tokenizer.pad_token_id)
        labels, _ = padded([labels for _, labels in batch], -100)
        meter.tokens(mask)
        logprobs, _ = labelled_logprobs(model, ids, mask, labels)
        loss = -logprobs.mean()
        loss.backward()
        optimizer.step()
        meter.losses.append(loss.item())
        meter.end()
    return versions()


def loop_dpo(args, rows, meter, beta=0.1):
    tokenizer, model, optimizer = load(args, transformers.AutoModelForCausalLM)

    def labelled(row, side):
        ids, start = sequence(tokenizer, row["prompt"], row[side])
        return ids[: args.max_length], ([-100] * start + ids[start:])[: args.max_length]

    pairs = [(labelled(row, "chosen"), labelled(row, "rejected")) for row in rows]

    def tensors(batch):
        sides = [chosen for chosen, _ in batch] + [rejected for _, rejected in batch]
        ids, mask = padded([ids for ids, _ in sides], tokenizer.pad_token_id)
        return ids, mask, padded([labels for _, labels in sides], -100)[0]

    def sums(ids, mask, labels):
        logprobs, sequences = labelled_logprobs(model, ids, mask, labels)
        return torch.zeros(len(ids)).index_add(0, sequences, logprobs)

    def reference(*inputs):
        with torch.no_grad(), model.disable_adapter():
            return sums(*inputs)

    cached = [None] * args.steps
    if args.reference == "cached":
        in_order = [reference(*tensors(pairs[at : at + args.batch_size])) for at in range(0, len(pairs), args.batch_size)]
        whole = len(pairs) // args.batch_size
        cached = [in_order[step % whole] for step in range(args.steps)]
    for batch, of_reference in zip(batches(pairs, args), cached):
        meter.begin()
        inputs = tensors(batch)
        meter.tokens(inputs[1])
        if of_reference is None:
            of_reference = reference(*inputs)
        chosen, rejected = (sums(*inputs) - of_reference).chunk(2)
        loss = -F.logsigmoid(beta * (chosen - rejected)).mean()
        loss.backward()
        optimizer.step()
        meter.losses.append(loss.item())
        meter.end()
    return versions()


def loop_triplet(args, rows, meter, margin=0.5):
    tokenizer, model, optimizer = load(args, transformers.AutoModel)
    encoded = [tokenizer([row[side] for side in ("anchor", "positive", "negative")], truncation=True, max_length=256)["input_ids"] for row in rows]

    def embeddings(sequences):
        ids, mask = padded(sequences, tokenizer.pad_token_id)
        meter.tokens(mask)
        states = model(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[..., None].to(states.dtype)
        return ((states * weights).sum(1) / weights.sum(1)).float()

    for batch in batches(encoded, args):
        meter.begin()
        # Questions are a third as long as recordings: together, half of the tokens would be padding.
        anchor = embeddings([row[0] for row in batch])
        positive, negative = embeddings([row[side] for side in (1, 2) for row in batch]).chunk(2)
        loss = F.relu(margin - F.cosine_similarity(anchor, positive) + F.cosine_similarity(anchor, negative)).mean()
        loss.backward()
        optimizer.step()
        meter.losses.append(loss.item())
        meter.end()
    return versions()


def labelled_logprobs(model, ids, mask, labels):
    """Log-probability of each labelled token, and the sequence that it is of."""
    decoder = model.get_base_model()
    states = decoder.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
    targets = labels[:, 1:]
    chosen = targets != -100
    logits = F.linear(states[chosen], decoder.lm_head.weight).float()
    return -F.cross_entropy(logits, targets[chosen], reduction="none"), chosen.nonzero()[:, 0]


def padded(sequences, pad):
    length = max(map(len, sequences))
    values = torch.full((len(sequences), length), pad)
    mask = torch.zeros((len(sequences), length), dtype=torch.long)
    for row, ids in enumerate(sequences):
        values[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
    return values, mask


def batches(examples, args):
    whole = len(examples) // args.batch_size
    for step in range(args.steps):
        at = step % whole * args.batch_size
        yield examples[at : at + args.batch_size]


def load(args, kind):
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.base_model)
    model = kind.from_pretrained(args.base_model, dtype=torch.float32 if args.precision == "f32" else torch.bfloat16)
    lora = peft.LoraConfig(r=8, lora_alpha=16, target_modules="all-linear")
    model = peft.get_peft_model(model, lora, autocast_adapter_dtype=False)  # not in training mode: our runs have no dropout either
    return tokenizer, model, Optimizer([p for p in model.parameters() if p.requires_grad])


class Optimizer:
    """Clips and steps AdamW on f32 copies where the adapter is not f32 itself."""

    def __init__(self, adapter):
        self.adapter = adapter
        self.masters = [p.detach().float().clone() for p in adapter] if adapter[0].dtype != torch.float32 else adapter
        self.adamw = torch.optim.AdamW(self.masters, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(self):
        if self.masters is not self.adapter:
            for master, p in zip(self.masters, self.adapter):
                master.grad = None if p.grad is None else p.grad.float()  # the pooler has none
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0)
        self.adamw.step()
        if self.masters is not self.adapter:
            with torch.no_grad():
                torch._foreach_copy_(self.adapter, self.masters)
        for p in self.adapter:
            p.grad = None


def versions():
    return f"torch {torch.__version__}, peft {peft.__version__}"
