//! The low-rank path.

use trainer_cuda::device::{Device, LowRank, Modules, Trainable, UpdateGradient};

use crate::linear::product;
use crate::support::{
    Random, adapted, assert_close, dot, gradient, on_every_device, output, single, sum, take, trainable, weight, wide,
};

/// Tokens, out, in, rank.
const SHAPES: [[usize; 4]; 5] = [[123, 515, 77, 8], [1, 64, 48, 1], [130, 33, 600, 16], [600, 20, 30, 4], [9, 5, 7, 3]];
const SCALING: f32 = 1.75;
/// Two chained sums of at most 600 products each, relative to the largest result: measured 1e-6 at most.
const TOLERANCE: f64 = 5e-6;

/// `x a^T` and `x w^T + scaling * h b^T`; `h` is of `dropped`, where dropout left that of `x`.
fn reference([n, out, inp, rank]: [usize; 4], dropped: &[f64], x: &[f64], [w, a, b]: [&[f64]; 3]) -> [Vec<f64>; 2] {
    let (h, _) = product([n, rank, inp], |t, i| dropped[t * inp + i], |i, r| a[r * inp + i]);
    let (y, _) = product([n, out, inp], |t, i| x[t * inp + i], |i, o| w[o * inp + i]);
    let (up, _) = product([n, out, rank], |t, r| h[t * rank + r], |r, o| f64::from(SCALING) * b[o * rank + r]);
    [h, sum(&y, &up)]
}

#[test]
fn forward_adds_to_the_linear_layer_beside_a_whole_or_a_dropped_input() {
    for shape @ [n, out, inp, rank] in SHAPES {
        let mut random = Random(10);
        let (x, w) = (random.values(n * inp), random.values(out * inp));
        let (a, b) = (random.values(rank * inp), random.values(out * rank));
        let residual = random.values(n * out);
        let mut dropped = x.clone();
        dropped[..n * inp].iter_mut().step_by(3).for_each(|x| *x = 0.0);
        let parameters = [&wide(&w, out * inp)[..], &wide(&a, rank * inp), &wide(&b, out * rank)];
        for input in [&x, &dropped] {
            let [h, y] = reference(shape, &wide(input, n * inp), &wide(&x, n * inp), parameters);
            for result in on_every_device(|cpu| {
                let [w, a, b] = [weight(cpu, &w, out, inp), weight(cpu, &a, rank, inp), weight(cpu, &b, out, rank)];
                let modules = adapted(&w, &a, &b, SCALING);
                let (mut y, mut h) = (output(n * out), output(n * rank));
                cpu.low_rank_forward([Some(&mut h)], input, &x, &modules, n);
                cpu.linear_forward([&mut y], &x, [Some(&h)], &modules, Some(&residual), n);

                // Without `h` the layer is its base.
                let (mut without, mut base) = (output(n * out), output(n * out));
                cpu.linear_forward([&mut without], &x, [None], &modules, Some(&residual), n);
                cpu.linear_forward([&mut base], &x, [None], &single(&w), Some(&residual), n);
                assert!(take(without, n * out) == take(base, n * out), "{shape:?}");
                vec![take(h, n * rank), take(y, n * out)]
            }) {
                assert_close("h", &result[0], &h, TOLERANCE);
                assert_close("y", &result[1], &sum(&y, &wide(&residual, n * out)), TOLERANCE);
            }
        }
    }
}

/// Layers of one input, of which the second has no update: `h` of both others in one call, and of each alone.
#[test]
fn h_alone_is_that_of_the_forward_pass_bit_for_bit() {
    for [n, out, inp, rank] in SHAPES {
        let mut random = Random(12);
        let (x, w) = (random.values(n * inp), random.values(out * inp));
        let [a, b] = [rank * inp, out * rank].map(|len| [random.values(len), random.values(len)]);
        on_every_device(|cpu| {
            let (w, a) = (weight(cpu, &w, out, inp), a.each_ref().map(|a| weight(cpu, a, rank, inp)));
            let b = b.each_ref().map(|b| weight(cpu, b, out, rank));
            let update = |i: usize| Some(LowRank { a: &a[i], b: &b[i], scaling: SCALING });
            let low_rank = [update(0), None, update(1)];
            let modules = Modules { packed: &(), weight: [&w; 3], bias: [None; 3], low_rank };
            let [mut first, mut last, mut first_alone, mut last_alone] = [(); 4].map(|()| output(n * rank));
            cpu.low_rank_forward([Some(&mut first), None, Some(&mut last)], &x, &x, &modules, n);
            cpu.low_rank_forward([Some(&mut first_alone), None, None], &x, &x, &modules, n);
            cpu.low_rank_forward([None, None, Some(&mut last_alone)], &x, &x, &modules, n);
            let (first, last) = (take(first, n * rank), take(last, n * rank));
            assert!(first == take(first_alone, n * rank), "{n} tokens, rank {rank}");
            assert!(last == take(last_alone, n * rank), "{n} tokens, rank {rank}");

            let mut y = [(); 3].map(|()| output(n * out));
            cpu.linear_forward(y.each_mut(), &x, [Some(&first), None, Some(&last)], &modules, None, n);
            for (i, h) in [(0, Some(&first)), (1, None), (2, Some(&last))] {
                let mut alone = output(n * out);
                let low_rank = if i == 1 { None } else { update(i / 2) };
                cpu.linear_forward([&mut alone], &x, [h], &Modules { low_rank: [low_rank], ..single(&w) }, None, n);
                assert!(y[i] == alone, "layer {i}: {n} tokens, rank {rank}");
            }
            let [y, ..] = y;
            vec![first, last, take(y, n * out)]
        });
    }
}

#[test]
fn backward_is_the_products_and_gradients_accumulate() {
    for [n, out, inp, rank] in SHAPES {
        let mut random = Random(11);
        let (x, a, b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
        let (dy, h) = (random.values(n * out), random.values(n * rank));
        let (residual, d_a, d_b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
        let w = random.values(out * inp);
        let scaling = f64::from(SCALING);
        let wide = |values: &[f32]| values.iter().map(|&x| f64::from(x)).collect::<Vec<_>>();
        let [x64, a64, b64, dy64, h64, w64] = [&x, &a, &b, &dy, &h, &w].map(|values| wide(values));
        let (d_h, _) = product([n, rank, out], |t, o| scaling * dy64[t * out + o], |o, r| b64[o * rank + r]);
        let (want_b, _) = product([out, rank, n], |o, t| scaling * dy64[t * out + o], |t, r| h64[t * rank + r]);
        let (want_a, _) = product([rank, inp, n], |r, t| d_h[t * rank + r], |t, i| x64[t * inp + i]);
        let (of_update, _) = product([n, inp, rank], |t, r| d_h[t * rank + r], |r, i| a64[r * inp + i]);
        let (of_layer, _) = product([n, inp, out], |t, o| dy64[t * out + o], |o, i| w64[o * inp + i]);
        for result in on_every_device(|cpu| {
            let (w, mut trained) =
                (weight(cpu, &w, out, inp), [trainable(cpu, &a, rank, inp), trainable(cpu, &b, out, rank)]);
            [trained[0].grad, trained[1].grad] = [d_a.clone(), d_b.clone()];
            let modules = adapted(&w, &trained[0].weight, &trained[1].weight, SCALING);
            let [mut dx, mut dx_sum, mut of_layer, mut of_update] = [(); 4].map(|()| output(n * inp));
            let mut d_h = output(n * rank);
            cpu.low_rank_backward([Some(&mut d_h)], [&dy], &modules, n);
            cpu.linear_backward_input(&mut dx, [&dy], [Some(&d_h)], &modules, None, n);
            cpu.linear_backward_input(&mut dx_sum, [&dy], [Some(&d_h)], &modules, Some(&residual), n);
            // As where dropout is between the update and the layer's input.
            cpu.linear_backward_input(&mut of_layer, [&dy], [None], &modules, None, n);
            cpu.low_rank_input(&mut of_update, &d_h, modules.low_rank[0].as_ref().map(|update| update.a).unwrap(), n);
            let update = UpdateGradient { a: 0, b: 1, scaling: SCALING, dy: &dy, x: &x, h: &h, d_h: &d_h };
            cpu.low_rank_gradients(&mut trained, &[update], n);
            let [d_a, d_b] = trained.map(|tensor| tensor.grad);
            let of_inputs = [dx, dx_sum, of_layer, of_update].map(|dx| take(dx, n * inp));
            [vec![take(d_h, n * rank), take(d_b, out * rank), take(d_a, rank * inp)], of_inputs.to_vec()].concat()
        }) {
            let dx = sum(&of_layer, &of_update);
            assert_close("d_h", &result[0], &d_h, TOLERANCE);
            assert_close("d_b", &result[1], &sum(&want_b, &wide(&d_b)), TOLERANCE);
            assert_close("d_a", &result[2], &sum(&want_a, &wide(&d_a)), TOLERANCE);
            assert_close("dx", &result[3], &dx, TOLERANCE);
            assert_close("dx with a residual", &result[4], &sum(&dx, &wide(&residual)), TOLERANCE);
            assert_close("dx of the layer", &result[5], &of_layer, TOLERANCE);
            assert_close("dx of the update", &result[6], &of_update, TOLERANCE);
        }
    }
}

/// Of which the second has no update.
#[test]
fn the_input_of_several_layers_has_the_sum_of_their_gradients_with_their_updates() {
    let (n, outs, inp, rank) = (61, [130, 4, 33], 77, 8);
    let mut random = Random(14);
    let (w, dy) = (outs.map(|out| random.values(out * inp)), outs.map(|out| random.values(n * out)));
    let (a, b) = (outs.map(|_| random.values(rank * inp)), outs.map(|out| random.values(out * rank)));
    let residual = random.values(n * inp);
    let (mut want, mut want_d_h) = (wide(&residual, n * inp), Vec::new());
    for i in 0..3 {
        let [w, a] = [(&w[i], outs[i] * inp), (&a[i], rank * inp)].map(|(values, len)| wide(values, len));
        let (b, dy) = (wide(&b[i], outs[i] * rank), wide(&dy[i], n * outs[i]));
        let (of_layer, _) = product([n, inp, outs[i]], |t, o| dy[t * outs[i] + o], |o, x| w[o * inp + x]);
        want = sum(&want, &of_layer);
        if i != 1 {
            let scaled = |t: usize, o: usize| f64::from(SCALING) * dy[t * outs[i] + o];
            let (d_h, _) = product([n, rank, outs[i]], scaled, |o, r| b[o * rank + r]);
            let (of_update, _) = product([n, inp, rank], |t, r| d_h[t * rank + r], |r, x| a[r * inp + x]);
            want = sum(&want, &of_update);
            want_d_h.push(d_h);
        }
    }
    for result in on_every_device(|cpu| {
        let w = [0, 1, 2].map(|i| weight(cpu, &w[i], outs[i], inp));
        let (a, b) =
            (a.each_ref().map(|a| weight(cpu, a, rank, inp)), [0, 1, 2].map(|i| weight(cpu, &b[i], outs[i], rank)));
        let update = |i: usize| Some(LowRank { a: &a[i], b: &b[i], scaling: SCALING });
        let low_rank = [update(0), None, update(2)];
        let modules = Modules { packed: &(), weight: w.each_ref(), bias: [None; 3], low_rank };
        let (mut first, mut last, mut dx) = (output(n * rank), output(n * rank), output(n * inp));
        cpu.low_rank_backward([Some(&mut first), None, Some(&mut last)], dy.each_ref(), &modules, n);
        let d_h = [Some(&first), None, Some(&last)];
        cpu.linear_backward_input(&mut dx, dy.each_ref(), d_h, &modules, Some(&residual), n);
        vec![take(dx, n * inp), take(first, n * rank), take(last, n * rank)]
    }) {
        assert_close("dx", &result[0], &want, TOLERANCE);
        assert_close("first d_h", &result[1], &want_d_h[0], TOLERANCE);
        assert_close("last d_h", &result[2], &want_d_h[1], TOLERANCE);
    }
}

#[test]
fn gradients_of_several_updates_in_one_call_are_those_of_a_call_each() {
    let (n, outs, ins, rank) = (123, [515, 4, 33], [77, 77, 600], 8);
    let mut random = Random(13);
    let x = [77, 600].map(|inp| random.values(n * inp));
    let dy = outs.map(|out| random.values(n * out));
    let [h, d_h] = [(); 2].map(|()| outs.map(|_| random.values(n * rank)));
    // `B` before `A` in the second: the order is the model's.
    let places = [(0, 1), (3, 2), (4, 5)];
    let shapes: Vec<[usize; 2]> =
        vec![[rank, ins[0]], [outs[0], rank], [outs[1], rank], [rank, ins[1]], [rank, ins[2]], [outs[2], rank]];
    let gradients: Vec<_> = shapes.iter().map(|[rows, cols]| random.values(rows * cols)).collect();
    on_every_device(|cpu| {
        let start = || -> Vec<Trainable<_>> {
            let tensor = |([rows, cols], grad): (&[usize; 2], &Vec<f32>)| Trainable {
                grad: grad.clone(),
                ..trainable(cpu, grad, *rows, *cols)
            };
            shapes.iter().zip(&gradients).map(tensor).collect()
        };
        let update = |i: usize| {
            let ((a, b), scaling) = (places[i], SCALING + i as f32);
            UpdateGradient { a, b, scaling, dy: &dy[i], x: &x[i / 2], h: &h[i], d_h: &d_h[i] }
        };
        let (mut together, mut alone) = (start(), start());
        cpu.low_rank_gradients(&mut together, &[update(0), update(1), update(2)], n);
        (0..3).for_each(|i| cpu.low_rank_gradients(&mut alone, &[update(i)], n));
        let taken = |trained: Vec<Trainable<_>>| -> Vec<Vec<f32>> {
            trained.into_iter().zip(&shapes).map(|(tensor, [rows, cols])| take(tensor.grad, rows * cols)).collect()
        };
        let (together, alone) = (taken(together), taken(alone));
        assert!(together == alone);
        assert!(together.iter().zip(&gradients).all(|(after, before)| after[..] != before[..after.len()]));
        together
    });
}

#[test]
fn backward_is_the_gradient_of_forward() {
    let shape @ [n, out, inp, rank] = [3, 5, 4, 2];
    let mut random = Random(12);
    let (x, a, b) = (random.values(n * inp), random.values(rank * inp), random.values(out * rank));
    let (dy, w) = (random.values(n * out), random.values(out * inp));
    let (x64, a64, b64) = (wide(&x, n * inp), wide(&a, rank * inp), wide(&b, out * rank));
    let w64 = wide(&w, out * inp);
    let loss = |x: &[f64], a: &[f64], b: &[f64]| dot(&reference(shape, x, x, [&w64, a, b])[1], &wide(&dy, n * out));
    for result in on_every_device(|cpu| {
        let (mut y, mut h, mut d_h, mut dx) = (output(n * out), output(n * rank), output(n * rank), output(n * inp));
        let (w, mut trained) =
            (weight(cpu, &w, out, inp), [trainable(cpu, &a, rank, inp), trainable(cpu, &b, out, rank)]);
        let modules = adapted(&w, &trained[0].weight, &trained[1].weight, SCALING);
        cpu.low_rank_forward([Some(&mut h)], &x, &x, &modules, n);
        cpu.linear_forward([&mut y], &x, [Some(&h)], &modules, None, n);
        cpu.low_rank_backward([Some(&mut d_h)], [&dy], &modules, n);
        cpu.linear_backward_input(&mut dx, [&dy], [Some(&d_h)], &modules, None, n);
        let update = UpdateGradient { a: 0, b: 1, scaling: SCALING, dy: &dy, x: &x, h: &h, d_h: &d_h };
        cpu.low_rank_gradients(&mut trained, &[update], n);
        let [d_a, d_b] = trained.map(|tensor| tensor.grad);
        vec![take(dx, n * inp), d_a, d_b]
    }) {
        assert_close("dx", &result[0], &gradient(&x64, |x| loss(x, &a64, &b64)), TOLERANCE);
        assert_close("d_a", &result[1], &gradient(&a64, |a| loss(&x64, a, &b64)), TOLERANCE);
        assert_close("d_b", &result[2], &gradient(&b64, |b| loss(&x64, &a64, b)), TOLERANCE);
    }
}
