//! Rows that have labels, out of and back into all rows.

use super::Cpu;
use super::elementwise::GRAIN;
use super::parallel;

pub(super) fn gather(cpu: &Cpu, y: &mut [f32], x: &[f32], rows: &[u32], hidden: usize, n_rows: usize, n_tokens: usize) {
    cpu.for_rows(n_rows, GRAIN.div_ceil(hidden), parallel::rows(y, n_rows, hidden), |range, y| {
        for (y, &row) in y.into_slice().chunks_exact_mut(hidden).zip(&rows[range]) {
            match row as usize {
                row if row < n_tokens => y.copy_from_slice(&x[row * hidden..][..hidden]),
                _ => y.fill(0.0),
            }
        }
    });
}

pub(super) fn scatter(
    cpu: &Cpu,
    dx: &mut [f32],
    dy: &[f32],
    rows: &[u32],
    hidden: usize,
    n_rows: usize,
    n_tokens: usize,
) {
    let rows = &rows[..n_rows];
    cpu.for_rows(n_tokens, GRAIN.div_ceil(hidden), parallel::rows(dx, n_tokens, hidden), |range, dx| {
        let dx = dx.into_slice();
        dx.fill(0.0);
        let first = rows.partition_point(|&row| (row as usize) < range.start);
        for (r, &row) in rows.iter().enumerate().skip(first).take_while(|(_, row)| range.contains(&(**row as usize))) {
            let at = (row as usize - range.start) * hidden;
            dx[at..at + hidden].copy_from_slice(&dy[r * hidden..][..hidden]);
        }
    });
}
