//! A component, or a core module, as the tree of its sections: what is changed inside of one leaves the others whole.

const COMPONENT: [u8; 8] = *b"\0asm\x0d\0\x01\0";
const MODULE: [u8; 8] = *b"\0asm\x01\0\0\0";

#[derive(Clone)]
pub(crate) struct Section {
    pub(crate) id: u8,
    pub(crate) contents: Contents,
}

#[derive(Clone)]
pub(crate) enum Contents {
    Bytes(Vec<u8>),
    /// A module or a component in a component.
    Nested(Binary),
}

#[derive(Clone)]
pub(crate) struct Binary {
    preamble: [u8; 8],
    pub(crate) sections: Vec<Section>,
}

impl Binary {
    /// None where the bytes do not fall into sections.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let preamble: [u8; 8] = bytes.get(..8)?.try_into().ok()?;
        if preamble != COMPONENT && preamble != MODULE {
            return None;
        }
        let (mut sections, mut rest) = (Vec::new(), &bytes[8..]);
        while let [id, after @ ..] = rest {
            let (size, after) = read_leb(after)?;
            let (contents, after) = (after.get(..size)?, after.get(size..)?);
            let nested = Self::parse(contents).filter(|_| preamble == COMPONENT && [1, 4].contains(id));
            let contents = nested.map_or_else(|| Contents::Bytes(contents.to_vec()), Contents::Nested);
            sections.push(Section { id: *id, contents });
            rest = after;
        }
        Some(Self { preamble, sections })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = self.preamble.to_vec();
        for section in &self.sections {
            let nested;
            let contents = match &section.contents {
                Contents::Bytes(bytes) => bytes,
                Contents::Nested(binary) => {
                    nested = binary.encode();
                    &nested
                }
            };
            bytes.push(section.id);
            write_leb(&mut bytes, contents.len());
            bytes.extend(contents);
        }
        bytes
    }
}

fn read_leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let length = 1 + bytes.iter().take(5).position(|byte| byte & 0x80 == 0)?;
    let (leb, rest) = bytes.split_at(length);
    Some((leb.iter().rev().fold(0, |value, byte| value << 7 | usize::from(byte & 0x7f)), rest))
}

pub(crate) fn write_leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value > 0x7f {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[test]
fn a_component_is_written_as_it_was_read() {
    for seed in super::seeds() {
        assert!(Binary::parse(&seed).unwrap().encode() == seed);
    }
}
