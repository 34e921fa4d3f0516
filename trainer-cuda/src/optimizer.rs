//! The end of a step: AdamW over the tensors being trained, and the log of what steps computed.

use crate::Result;
use crate::allocator::Allocator;
use crate::device::{AdamW, Device, LOG_COLUMNS, SCALARS, SUMS, StepState, Trainable};
use crate::ranks::Collective;

/// `torch.optim.AdamW`'s defaults.
const CONSTANTS: AdamW = AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };

/// What one step of the optimiser is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepScalars {
    /// From 1: for the correction of the moments' bias.
    pub step: usize,
    /// Of this step.
    pub learning_rate: f32,
    /// Decoupled weight decay.
    pub weight_decay: f32,
    /// Gradients are scaled down to this norm; 0 for none.
    pub max_grad_norm: f32,
    /// Row of the log that the step's figures go to.
    pub log_row: usize,
}

impl StepScalars {
    /// As [`StepState::scalars`] holds them: computed in f64 as Python does, and rounded once.
    fn values(self) -> [f32; SCALARS] {
        let (learning_rate, weight_decay) = (f64::from(self.learning_rate), f64::from(self.weight_decay));
        let [beta1, beta2] = [CONSTANTS.beta1, CONSTANTS.beta2].map(f64::from);
        let step = self.step as i32;
        [
            self.max_grad_norm,
            self.log_row as f32,
            (1.0 - learning_rate * weight_decay) as f32,
            (learning_rate / (1.0 - beta1.powi(step))) as f32,
            (1.0 - beta2.powi(step)).sqrt() as f32,
        ]
    }
}

/// What a step computed: its sums, and the norm of its gradient.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LoggedStep {
    /// The loss, then the method's figures.
    pub sums: [f64; SUMS],
    /// Before clipping.
    pub grad_norm: f64,
}

/// A device, the tensors being trained on it, and what ends a step.
pub type Parts<'a, D> = (&'a D, &'a mut [Trainable<D>], &'a mut Optimizer<D>);

/// AdamW, and its state beside the moments.
pub struct Optimizer<D: Device> {
    own: D::Optimizer,
    /// What the losses of a step add to.
    pub state: StepState<D>,
}

impl<D: Device> Optimizer<D> {
    pub(crate) fn new(device: &D, from: &mut Allocator<'_, D>, trained: &[Trainable<D>]) -> Self {
        let state = StepState {
            scalars: from.f32("step.scalars"),
            sums: from.f64("step.sums"),
            control: from.f32("step.control"),
            log: from.f64("step.log"),
        };
        Self { own: device.optimizer(trained), state }
    }

    /// To be called before the step that it is of.
    pub fn write(&mut self, device: &D, scalars: StepScalars) {
        device.write_f32(&mut self.state.scalars, &scalars.values());
    }

    /// Begins a step.
    pub fn zero_gradients(&self, device: &D, trained: &mut [Trainable<D>]) {
        device.zero_gradients(trained, &self.own);
    }

    /// Adds up what the ranks have of a step, before it is ended.
    ///
    /// # Errors
    /// Those of [`Collective::sum_step`].
    pub fn sum_over(
        &mut self,
        collective: &mut dyn Collective<D>,
        device: &D,
        trained: &mut [Trainable<D>],
    ) -> Result<()> {
        collective.sum_step(device, &mut self.state, trained, &self.own)
    }

    /// Ends a step: clips, updates every tensor, logs. A step that is not finite changes no tensor, nor does any after it.
    pub fn end_step(&mut self, device: &D, trained: &mut [Trainable<D>]) {
        device.end_step(&mut self.state, trained, &self.own);
        device.adamw_step(trained, &self.own, &self.state, CONSTANTS);
    }

    /// Forgets a step that was not finite, once its error was told: the sums are zero, and tensors change again.
    pub fn forget(&mut self, device: &D) {
        self.take_sums(device);
        device.write_f32(&mut self.state.control, &[1.0, 0.0]);
    }

    /// The first `n` rows of the log.
    pub fn read_log(&self, device: &D, n: usize) -> Vec<LoggedStep> {
        let values = device.read_f64(&self.state.log, n * LOG_COLUMNS);
        let logged = |row: &[f64; LOG_COLUMNS]| {
            let [sums @ .., grad_norm] = *row;
            LoggedStep { sums, grad_norm }
        };
        values.as_chunks().0.iter().map(logged).collect()
    }

    /// The sums of a step that was not ended; they are cleared.
    pub fn take_sums(&mut self, device: &D) -> [f64; SUMS] {
        let values = device.read_f64(&self.state.sums, SUMS);
        device.write_f64(&mut self.state.sums, &[0.0; LOG_COLUMNS]);
        std::array::from_fn(|i| values[i])
    }
}
