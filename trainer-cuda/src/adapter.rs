//! The tensors being trained, as an adapter on disk has them.

use crate::device::{Device, Trainable};
use crate::formats::peft::NamedTensor;
use crate::{Result, TrainerError};

/// Overwrites `trained` by the tensors of an adapter.
///
/// # Errors
/// [`TrainerError::Config`] where the names or shapes are not exactly those being trained.
pub fn write<D: Device>(device: &D, trained: &mut [Trainable<D>], tensors: &[NamedTensor]) -> Result<()> {
    let refuse = |what: String| Err(TrainerError::Config(format!("the adapter does not fit this run: {what}")));
    if let Some(extra) = tensors.iter().find(|tensor| !trained.iter().any(|own| own.name == tensor.name)) {
        return refuse(format!("it has `{}`, which is not trained here", extra.name));
    }
    for own in trained {
        let Some(tensor) = tensors.iter().find(|tensor| tensor.name == own.name) else {
            return refuse(format!("it lacks `{}`", own.name));
        };
        let expected = device.weight_shape(&own.weight);
        if tensor.shape != expected {
            return refuse(format!("`{}` has shape {:?}, not {expected:?}", own.name, tensor.shape));
        }
        device.write_weight(&mut own.weight, &tensor.data);
    }
    Ok(())
}

/// Copies `trained` to the host.
pub fn read<D: Device>(device: &D, trained: &[Trainable<D>]) -> Vec<NamedTensor> {
    let named = |tensor: &Trainable<D>| NamedTensor {
        name: tensor.name.clone(),
        shape: device.weight_shape(&tensor.weight),
        data: device.read_weight(&tensor.weight),
    };
    trained.iter().map(named).collect()
}
