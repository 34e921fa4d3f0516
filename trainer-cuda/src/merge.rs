//! An adapter put into its base: `W + scaling * B A`, a model like any other.

use crate::formats::peft::{encode, write_json, write_views};
use crate::formats::{Adapter, BaseModel, TensorInfo, Update};
use crate::{Result, TrainerError};
use rayon::prelude::*;
use safetensors::View;
use safetensors::tensor::Dtype;
use serde_json::Value;
use std::borrow::Cow;
use std::cell::RefCell;
use std::path::Path;

/// Writes `base` with `adapter` in it as a Hugging Face folder: `config.json`, `generation_config.json` where the base
/// has one, `model.safetensors`, the tokenizer's files. Sums are f32; each tensor is stored in the base's type, a
/// GGUF's in f32. One tensor is in memory at a time.
///
/// # Errors
/// [`TrainerError::WrongKind`] for an encoder; those of [`Adapter::check_fits`], of reading the base and of writing `folder`, which must exist.
pub fn merge(base: &BaseModel, adapter: &Adapter, folder: &Path) -> Result<()> {
    base.decoder()?;
    adapter.check_fits(base)?;
    write_json(&folder.join("config.json"), &base.hf_config())?;
    let generation_config = base.generation_config();
    if generation_config != Value::Null {
        write_json(&folder.join("generation_config.json"), &generation_config)?;
    }
    base.write_tokenizer_files(folder)?;

    let (tensors, failed) = (base.tensors(), RefCell::new(None));
    let views = tensors.iter().map(|info| {
        let update = info.name.strip_suffix(".weight").and_then(|module| adapter.updates.get(module));
        (info.name.as_str(), Merged { info, base, update, scaling: adapter.lora.scaling(), failed: &failed })
    });
    write_views(&folder.join("model.safetensors"), views)?;
    failed.into_inner().map_or(Ok(()), Err)
}

/// `w += scaling * b a`, summed over the rank in order.
fn add(w: &mut [f32], update: &Update, scaling: f32) {
    let (rank, cols) = (update.a.shape[0], update.a.shape[1]);
    let rows = w.par_chunks_exact_mut(cols).zip(update.b.data.par_chunks_exact(rank));
    rows.for_each(|(w, b)| {
        let mut delta = vec![0.0f32; cols];
        for (b, a) in b.iter().zip(update.a.data.chunks_exact(cols)) {
            delta.iter_mut().zip(a).for_each(|(delta, a)| *delta += b * a);
        }
        w.iter_mut().zip(delta).for_each(|(w, delta)| *w += scaling * delta);
    });
}

/// A tensor of the merged model, computed when the file has come to it.
struct Merged<'a> {
    info: &'a TensorInfo,
    base: &'a BaseModel,
    update: Option<&'a Update>,
    scaling: f32,
    /// What went wrong; [`View::data`] can't say so.
    failed: &'a RefCell<Option<TrainerError>>,
}

impl View for Merged<'_> {
    fn dtype(&self) -> Dtype {
        self.info.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        match self.base.tensor(&self.info.name) {
            Ok(mut tensor) => {
                if let Some(update) = self.update {
                    add(&mut tensor.data, update, self.scaling);
                }
                Cow::Owned(encode(&tensor.data, self.info.dtype))
            }
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                Cow::Owned(vec![0; self.data_len()])
            }
        }
    }

    fn data_len(&self) -> usize {
        self.info.shape.iter().product::<usize>() * self.info.dtype.bitsize() / 8
    }
}
