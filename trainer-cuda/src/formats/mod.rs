//! Models, adapters and tokenizers on disk.
