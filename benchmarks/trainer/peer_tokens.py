"""Rows to token ids and labels as TRL makes them, for the peers that start from tokens."""

MASK = 2**64 - 1


def sequence(tokenizer, prompt, response):
    """Ids of prompt, response and end-of-sequence token; how many of them are the prompt's."""
    whole = tokenizer(prompt + response + tokenizer.eos_token)["input_ids"]
    start = 0
    for ours, theirs in zip(tokenizer(prompt)["input_ids"], whole):
        if ours != theirs:
            break
        start += 1
    return whole, start


def sft_sequences(tokenizer, rows, args, vocab):
    """(ids, labels) of each row; -100 is no label."""
    sequences = []
    for index, row in enumerate(rows):
        ids, start = sequence(tokenizer, row["prompt"], row["completion"])
        if args.no_shared_prefix:
            ids[:start] = [random_token(index, place, vocab) for place in range(start)]
        labels = ids if args.loss == "whole" else [-100] * start + ids[start:]
        sequences.append((ids[: args.max_length], labels[: args.max_length]))
    return sequences


def random_token(sequence, place, vocab):
    """Splitmix64 of both, as in `trainer-cuda/examples/step_cost/random_tokens.rs`."""
    z = ((sequence << 20 | place) + 1) * 0x9E3779B97F4A7C15 & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return (z ^ z >> 31) % vocab
