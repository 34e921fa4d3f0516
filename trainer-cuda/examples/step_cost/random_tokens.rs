//! Seeded token ids that mean nothing, for sequences that share no prefix. `benchmarks/trainer/peers.py` makes the same.

/// The id at `place` of sequence `sequence`, below `vocab`: splitmix64 (Steele et al. 2014) of both.
pub(crate) fn random_token(sequence: usize, place: usize, vocab: usize) -> u32 {
    let counter = ((sequence as u64) << 20) | place as u64;
    let mut z = (counter + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) % vocab as u64) as u32
}
