"""TRL's and sentence-transformers' trainers, with a user's defaults but for the order of the rows."""

import tempfile

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from peer_tokens import sft_sequences


def trl_sft(args, rows, meter):
    import trl

    torch.set_num_threads(args.threads)
    tokenizer, model = load(args)
    if args.no_shared_prefix:
        sequences = sft_sequences(tokenizer, rows, args, model.config.vocab_size)
        rows = [{"input_ids": ids, "labels": labels} for ids, labels in sequences]
    with tempfile.TemporaryDirectory() as out:
        settings = trl.SFTConfig(completion_only_loss=args.loss == "completion", max_length=args.max_length, **common(args, out))
        trainer = trl.SFTTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora("CAUSAL_LM")
        )
        run(trainer, meter)
    return f"torch {torch.__version__}, trl {trl.__version__}"


def trl_dpo(args, rows, meter):
    import trl

    torch.set_num_threads(args.threads)
    tokenizer, model = load(args)
    with tempfile.TemporaryDirectory() as out:
        settings = trl.DPOConfig(beta=0.1, max_length=args.max_length, **common(args, out))
        trainer = trl.DPOTrainer(
            model=model, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, peft_config=lora("CAUSAL_LM")
        )
        run(trainer, meter)
    return f"torch {torch.__version__}, trl {trl.__version__}"


def sentence_transformers(args, rows, meter):
    import sentence_transformers as st
    from sentence_transformers.losses import TripletDistanceMetric, TripletLoss

    torch.set_num_threads(args.threads)
    model = st.SentenceTransformer(args.base_model, device="cpu", model_kwargs={"dtype": torch.float32})
    model.add_adapter(lora("FEATURE_EXTRACTION"))
    loss = TripletLoss(model, distance_metric=TripletDistanceMetric.COSINE, triplet_margin=0.5)
    with tempfile.TemporaryDirectory() as out:
        settings = st.SentenceTransformerTrainingArguments(**common(args, out), batch_sampler=in_order)
        trainer = st.SentenceTransformerTrainer(model=model, args=settings, train_dataset=Dataset.from_list(rows), loss=loss)
        run(trainer, meter)
    return f"torch {torch.__version__}, sentence-transformers {st.__version__}"


def in_order(dataset, batch_size, drop_last, **_):
    """Batches of the rows as they stand: sentence-transformers draws them at random otherwise."""
    from sentence_transformers.sampler import DefaultBatchSampler

    return DefaultBatchSampler(torch.utils.data.SequentialSampler(dataset), batch_size, drop_last)


def load(args):
    tokenizer = AutoTokenizer.from_pretrained(args.base_model)
    return tokenizer, AutoModelForCausalLM.from_pretrained(args.base_model, dtype=torch.float32)


def lora(task):
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type=task)


def common(args, out):
    return dict(
        output_dir=out,
        per_device_train_batch_size=args.batch_size,
        max_steps=args.steps,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        bf16=args.precision == "bf16",
        use_cpu=True,
        train_sampling_strategy="sequential",
        logging_steps=1,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
    )


def run(trainer, meter):
    class Clock(TrainerCallback):
        def on_step_begin(self, *_, **__):
            meter.begin()

        def on_step_end(self, *_, **__):
            meter.end()

    compute_loss = trainer.compute_loss

    def counted(model, inputs, *rest, **named):
        for name, values in inputs.items():
            if name.endswith("attention_mask"):
                meter.tokens(values)
        return compute_loss(model, inputs, *rest, **named)

    trainer.compute_loss = counted
    trainer.add_callback(Clock())
    trainer.remove_callback(transformers.PrinterCallback)  # it would print to where the report goes
    trainer.train()
    meter.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
