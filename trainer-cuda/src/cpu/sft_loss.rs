//! The loss of supervised fine-tuning.

/// `sum_e d_logprob[e] * logprob[e]`, in f64.
pub(super) fn sft_loss(logprob: &[f32], d_logprob: &[f32]) -> f64 {
    logprob.iter().zip(d_logprob).map(|(&logprob, &d)| f64::from(d) * f64::from(logprob)).sum()
}
