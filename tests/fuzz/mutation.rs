//! One to four changes of a component that keep most of it whole.

use crate::component::{Binary, Contents, Section, write_leb};

/// Xorshift64*: the same damage for the same seed, everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// From 0 to below `n`, which is not 0.
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// Numbers that parsers stumble over.
const EDGES: [usize; 10] = [0, 1, 2, 0x7f, 0x80, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

pub(crate) fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let seed = random.pick(seeds);
    // Most of the small ones: they compile in milliseconds.
    let seed = if seed.len() > 8192 && random.below(4) > 0 { random.pick(seeds) } else { seed };
    if random.below(16) == 0 {
        return damage_bytes(seed.clone(), random);
    }
    let Some(mut binary) = Binary::parse(seed) else { return seed.clone() };
    for _ in 0..1 + random.below(4) {
        damage(&mut binary, seeds, random);
    }
    binary.encode()
}

fn damage(binary: &mut Binary, seeds: &[Vec<u8>], random: &mut Random) {
    if binary.sections.is_empty() {
        return;
    }
    let index = random.below(binary.sections.len());
    match random.below(12) {
        0 => drop(binary.sections.remove(index)),
        1 => binary.sections.insert(index, binary.sections[index].clone()),
        2 => {
            let other = random.below(binary.sections.len());
            binary.sections.swap(index, other);
        }
        3 => binary.sections[index].id = random.below(16) as u8,
        // A section of another component.
        4 => {
            if let Some(other) = Binary::parse(random.pick::<Vec<u8>>(seeds)).filter(|other| !other.sections.is_empty())
            {
                let section: Section = random.pick(&other.sections).clone();
                binary.sections.insert(index, section);
            }
        }
        _ => match &mut binary.sections[index].contents {
            Contents::Nested(nested) => damage(nested, seeds, random),
            Contents::Bytes(bytes) => *bytes = damage_bytes(std::mem::take(bytes), random),
        },
    }
}

fn damage_bytes(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    let at = random.below(bytes.len());
    match random.below(7) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = *random.pick(&[0, 1, 0x40, 0x7f, 0x80, 0xff]),
        2 => bytes[at] = random.below(256) as u8,
        3 => bytes.truncate(at),
        4 => {
            let end = (at + 1 + random.below(16)).min(bytes.len());
            let piece = bytes[at..end].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, piece);
        }
        5 => drop(bytes.remove(at)),
        // A number in its place: a count, a size or an index.
        _ => {
            let mut leb = Vec::new();
            write_leb(&mut leb, *random.pick(&EDGES));
            let end = at + 1 + bytes[at..].iter().take(4).position(|byte| byte & 0x80 == 0).unwrap_or(0);
            bytes.splice(at..end.min(bytes.len()), leb);
        }
    }
    bytes
}
