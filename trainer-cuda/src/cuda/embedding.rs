//! Token embeddings; see `embedding.cu`.

use super::Cuda;
use super::launch::{Grid, Source, octets, source};
use super::memory::{Act, Buffer};
use super::weights::Weight;

static EMBEDDING: Source = source!("embedding");

/// Tables as the kernel takes them.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Tables {
    ids: [u64; 3],
    table: [u64; 3],
    stride: [i32; 3],
    n: i32,
}

impl Cuda {
    pub(super) fn look_up(&self, y: &Act, tables: &[(&Buffer<u32>, &Weight)], n_tokens: usize) {
        assert!((1..=3).contains(&tables.len()), "{} tables", tables.len());
        let hidden = tables[0].1.cols;
        y.assert_holds("y", n_tokens, hidden);
        let mut by_value = Tables { ids: [0; 3], table: [0; 3], stride: [0; 3], n: tables.len() as i32 };
        for (i, (rows, table)) in tables.iter().enumerate() {
            let (address, stride) = table.matrix();
            assert!(table.cols == hidden && rows.len() >= n_tokens, "table {i}");
            (by_value.ids[i], by_value.table[i], by_value.stride[i]) = (rows.address(), address, stride as i32);
        }
        let launch = self.kernel(&EMBEDDING, "embedding_forward").act(y).by_value(by_value).int(n_tokens).int(hidden);
        launch.launch(octets(n_tokens, hidden));
    }

    pub(super) fn look_up_backward(
        &self,
        d_table: &Buffer<f32>,
        dy: &Act,
        rows: &Buffer<u32>,
        hidden: usize,
        n_tokens: usize,
    ) {
        dy.assert_holds("dy", n_tokens, hidden);
        let launch = self.kernel(&EMBEDDING, "embedding_backward").buffer(d_table).act(dy).buffer(rows);
        launch.int(n_tokens).int(hidden).launch(Grid::new([n_tokens, hidden.div_ceil(8 * 128), 1], 128));
    }
}
