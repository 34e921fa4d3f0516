//! An adapter as a GGUF that llama.cpp loads beside its base (`--lora`), as its `convert_lora_to_gguf.py` writes it.

use std::io::{self, Write};

use super::gguf_decoder::{Architecture, gguf_name, llama_cpp_row};
use super::gguf_writer::GgufWriter;
use super::{Adapter, BaseModel, HostTensor};
use crate::error::Result;

/// An adapter ready to be written.
pub struct GgufLora(GgufWriter);

impl GgufLora {
    /// Lays out `adapter` for llama.cpp's conversion of `base`.
    ///
    /// llama.cpp scales by `alpha / rank`, so for rsLoRA the file says `alpha * sqrt(rank)`.
    ///
    /// # Errors
    /// [`TrainerError::WrongKind`](crate::TrainerError::WrongKind) for an encoder; those of [`Adapter::check_fits`].
    pub fn new(base: &BaseModel, adapter: &Adapter) -> Result<Self> {
        let config = base.decoder()?;
        adapter.check_fits(base)?;
        let architecture = Architecture::of(config);
        let lora = &adapter.lora;
        let mut file = GgufWriter::default();
        file.string("general.architecture", architecture.name());
        file.string("general.type", "adapter");
        file.string("adapter.type", "lora");
        if let Some(name) = adapter.path().file_name() {
            file.string("general.name", &name.to_string_lossy());
        }
        file.u32("general.file_type", 0); // all f32
        let alpha = if lora.use_rslora { lora.alpha * (lora.rank as f32).sqrt() } else { lora.alpha };
        file.f32("adapter.lora.alpha", alpha);
        for (module, update) in &adapter.updates {
            let Some(name) = gguf_name(architecture, &format!("{module}.weight")) else {
                panic!("`{module}` is a layer of the model, and has no name in a GGUF");
            };
            let is_rotated = architecture == Architecture::Llama
                && [".q_proj", ".k_proj"].iter().any(|rotated| module.ends_with(rotated));
            file.tensor(&format!("{name}.lora_a"), &update.a.shape, update.a.data.iter().copied());
            match is_rotated {
                true => {
                    let rows = neighbours(&update.b, config.head_dim);
                    file.tensor(&format!("{name}.lora_b"), &update.b.shape, rows);
                }
                false => file.tensor(&format!("{name}.lora_b"), &update.b.shape, update.b.data.iter().copied()),
            }
        }
        Ok(Self(file))
    }

    /// Writes the whole file.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, file: &mut dyn Write) -> io::Result<()> {
        self.0.write(file)
    }
}

/// Rows in llama.cpp's order, from Hugging Face's.
fn neighbours(tensor: &HostTensor, head_dim: usize) -> Vec<f32> {
    let cols = tensor.shape[1];
    let mut rows = vec![0.0; tensor.data.len()];
    for (row, values) in tensor.data.chunks_exact(cols).enumerate() {
        rows[llama_cpp_row(row, head_dim) * cols..][..cols].copy_from_slice(values);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::super::gguf::Gguf;
    use super::*;
    use std::path::{Path, PathBuf};

    fn fixture(path: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
    }

    fn adapter(model: &str) -> Adapter {
        Adapter::open(&fixture(&format!("golden/{model}/adapter_init"))).unwrap()
    }

    fn base(model: &str) -> BaseModel {
        BaseModel::open(&fixture(&format!("golden/{model}/base"))).unwrap()
    }

    fn exported(base: &BaseModel, adapter: &Adapter) -> Gguf {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        GgufLora::new(base, adapter).unwrap().write(&mut file).unwrap();
        Gguf::open(file.path()).unwrap()
    }

    #[test]
    fn the_metadata_is_what_llama_cpp_asks_for() {
        for (model, architecture) in [("llama_tied", "llama"), ("qwen2", "qwen2"), ("qwen3", "qwen3")] {
            let file = exported(&base(model), &adapter(model));
            let string = |key| file.string(key).unwrap();
            assert_eq!(string("general.architecture"), Some(architecture));
            assert_eq!(string("general.type"), Some("adapter"));
            assert_eq!(string("adapter.type"), Some("lora"));
            assert_eq!(string("general.name"), Some("adapter_init"));
            assert_eq!(file.float("adapter.lora.alpha").unwrap(), Some(8.0));
        }
    }

    #[test]
    fn llama_cpps_scaling_by_alpha_over_rank_is_rsloras_own() {
        let mut adapter = adapter("llama_tied");
        adapter.lora.use_rslora = true; // alpha 8, rank 4: 8 / sqrt(4) = 16 / 4
        assert_eq!(exported(&base("llama_tied"), &adapter).float("adapter.lora.alpha").unwrap(), Some(16.0));
    }

    #[test]
    fn factors_keep_their_shape_and_only_rotated_rows_of_llama_move() {
        for model in ["llama_tied", "qwen2", "qwen3"] {
            let adapter = adapter(model);
            let file = exported(&base(model), &adapter);
            assert_eq!(file.tensor_names().count(), 2 * adapter.updates.len());
            for (module, inner, moves) in [
                ("self_attn.q_proj", "attn_q", model == "llama_tied"),
                ("self_attn.v_proj", "attn_v", false),
                ("mlp.down_proj", "ffn_down", false),
            ] {
                let update = &adapter.updates[&format!("model.layers.1.{module}")];
                let factor = |name: &str| file.tensor(&format!("blk.1.{inner}.weight.{name}")).unwrap();
                assert_eq!(factor("lora_a"), update.a);
                assert_eq!(factor("lora_b").shape, update.b.shape);
                assert_eq!(factor("lora_b").data != update.b.data, moves, "{model}: {module}");
            }
        }
    }

    #[test]
    fn the_rows_of_b_stand_where_llama_cpps_conversion_puts_those_of_the_base() {
        // An update that is the base's own matrix: B = W, A = 1. The GGUF is of the same model, by llama.cpp's formula.
        let (base, converted) = (base("llama_tied"), Gguf::open(&fixture("llama_tied.gguf")).unwrap());
        let mut adapter = adapter("llama_tied");
        for (module, name) in [("q_proj", "attn_q"), ("k_proj", "attn_k"), ("v_proj", "attn_v")] {
            let module = format!("model.layers.0.self_attn.{module}");
            adapter.updates.get_mut(&module).unwrap().b = base.tensor(&format!("{module}.weight")).unwrap();
            let file = exported(&base, &adapter);
            let b = file.tensor(&format!("blk.0.{name}.weight.lora_b")).unwrap();
            let expected = converted.tensor(&format!("blk.0.{name}.weight")).unwrap();
            assert_eq!(b.shape, expected.shape);
            let largest = expected.data.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
            for (b, expected) in b.data.iter().zip(&expected.data) {
                // The GGUF is quantised to 8 bits with a scale for 32 values.
                assert!((b - expected).abs() <= largest / 127.0, "{module}: {b} and {expected}");
            }
        }
    }
}
