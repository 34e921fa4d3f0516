//! Looks for the buffer in which a forward pass went wrong.

use crate::batch::Budget;
use crate::decoder::buffers::{Buffers, LayerActivations, residual_name};
use crate::device::Device;
use crate::plan::MemoryPlan;

/// Name of the first buffer, in the order of computation, with a NaN or an infinity among the rows of the last batch.
pub(crate) fn find<D: Device>(
    device: &D,
    plan: &MemoryPlan,
    buffers: &Buffers<D>,
    batch: Budget, // the last one's size
) -> Option<String> {
    let is_finite = |name: &str, values: &Values<'_, D>, n_rows: usize| {
        let width = plan.find(name).map_or(0, |(_, part)| part.width());
        let len = n_rows * width;
        let values = match values {
            Values::Act(buffer) => device.read_act(buffer, len),
            Values::F32(buffer) => device.read_f32(buffer, len),
        };
        values.iter().all(|value| value.is_finite())
    };
    let n_blocks = buffers.x.len() - 1;
    let residual = |layer: usize| (residual_name(layer, n_blocks), Values::Act(&buffers.x[layer]), batch.n_tokens);
    let in_block = |layer: usize| {
        // A set that the blocks share holds the block that ran last: it says nothing of the others.
        let own = (buffers.layers.len() == n_blocks).then(|| (&buffers.layers[layer], &plan.activation_sets[layer]));
        own.into_iter().flat_map(|(act, set)| {
            in_order(act).into_iter().map(move |(name, values)| (format!("{set}.{name}"), values, batch.n_tokens))
        })
    };
    let head = &buffers.head;
    let after = [
        ("head.x", Values::Act(&head.x), batch.n_rows),
        ("head.rstd", Values::F32(&head.rstd), batch.n_rows),
        ("head.normed", Values::Act(&head.normed), batch.n_rows),
        ("batch.logprob", Values::F32(&buffers.batch.logprob), batch.n_edges),
    ];
    (0..n_blocks)
        .flat_map(|layer| [residual(layer)].into_iter().chain(in_block(layer)))
        .chain([residual(n_blocks)])
        .chain(after.map(|(name, values, n_rows)| (name.to_owned(), values, n_rows)))
        .find(|(name, values, n_rows)| !is_finite(name, values, *n_rows))
        .map(|(name, ..)| name)
}

enum Values<'a, D: Device> {
    Act(&'a D::Act),
    F32(&'a D::F32),
}

/// What a block fills, first to last.
fn in_order<D: Device>(act: &LayerActivations<D>) -> Vec<(&'static str, Values<'_, D>)> {
    fn lora<'a, D: Device>(name: &'static str, h: &'a Option<D::Act>) -> Option<(&'static str, Values<'a, D>)> {
        Some((name, Values::Act(h.as_ref()?)))
    }
    let [q, k, v] = &act.h.qkv;
    let ([o], [gate, up], [down]) = (&act.h.o, &act.h.gate_up, &act.h.down);
    [
        Some(("rstd_attn", Values::F32(&act.rstd_attn))),
        lora("lora.q_proj", q),
        Some(("q", Values::Act(&act.q))),
        lora("lora.k_proj", k),
        Some(("k", Values::Act(&act.k))),
        lora("lora.v_proj", v),
        Some(("v", Values::Act(&act.v))),
        Some(("lse", Values::F32(&act.lse))),
        Some(("attn", Values::Act(&act.attn))),
        lora("lora.o_proj", o),
        Some(("x_mid", Values::Act(&act.x_mid))),
        Some(("rstd_mlp", Values::F32(&act.rstd_mlp))),
        lora("lora.gate_proj", gate),
        Some(("gate", Values::Act(&act.gate))),
        lora("lora.up_proj", up),
        Some(("up", Values::Act(&act.up))),
        lora("lora.down_proj", down),
    ]
    .into_iter()
    .flatten()
    .collect()
}
