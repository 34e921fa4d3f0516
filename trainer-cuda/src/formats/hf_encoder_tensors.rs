//! Where the tensors of a text embedding model lie on disk: transformers' own names, and the spellings before them.

use crate::config::EncoderNames;

/// A tensor on disk, or a part of one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Its name in the file.
    pub(super) name: String,
    /// `(i, n)`: the `i`-th of `n` equal blocks of rows.
    pub(super) block: Option<(usize, usize)>,
}

/// Every place that the tensor `name` of the encoder may have, the likeliest first.
pub(super) fn places(names: EncoderNames, name: &str) -> Vec<Place> {
    let own = Place { name: name.to_owned(), block: None };
    let spelled = match names {
        EncoderNames::Bert => {
            // Checkpoints converted from TensorFlow (bert-base-uncased).
            let tensorflow =
                name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta");
            vec![own, Place { name: tensorflow, block: None }]
        }
        EncoderNames::Jina => {
            let published = jina_published(name);
            // The published code wraps every matrix in a parametrization that adds a task adapter.
            let wrapped = match published.name.strip_suffix(".weight") {
                Some(module) => format!("{module}.parametrizations.weight.original"),
                None => published.name.clone(),
            };
            let wrapped = Place { name: wrapped, block: published.block };
            vec![published, own, wrapped]
        }
    };
    // A model with a head keeps its encoder under a name of its own.
    let prefixes: &[&str] = match names {
        EncoderNames::Bert => &["", "bert.", "roberta."],
        EncoderNames::Jina => &["", "roberta."],
    };
    let mut places = Vec::new();
    for prefix in prefixes {
        places.extend(spelled.iter().map(|place| Place { name: format!("{prefix}{}", place.name), ..*place }));
    }
    places
}

/// The published name of a tensor of jina-embeddings-v3, as transformers' own class saves it too.
fn jina_published(name: &str) -> Place {
    let name = name
        .replace("embeddings.LayerNorm", "emb_ln")
        .replace("self_attn.o_proj", "mixer.out_proj")
        .replace("post_attention_layernorm", "norm1")
        .replace("post_mlp_layernorm", "norm2");
    let name = if name.starts_with("layers.") { format!("encoder.{name}") } else { name };
    // Queries, keys and values are one matrix, in this order.
    let fused = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
    match fused.iter().position(|part| name.contains(part)) {
        Some(i) => Place { name: name.replace(fused[i], "mixer.Wqkv"), block: Some((i, fused.len())) },
        None => Place { name, block: None },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: EncoderNames, name: &str) -> Vec<String> {
        places(names, name).into_iter().map(|place| place.name).collect()
    }

    #[test]
    fn jinas_key_projection_is_the_second_block_of_its_fused_matrix() {
        let places = places(EncoderNames::Jina, "layers.3.self_attn.k_proj.weight");
        assert_eq!(places[0], Place { name: "encoder.layers.3.mixer.Wqkv.weight".into(), block: Some((1, 3)) });
        assert_eq!(places[1], Place { name: "layers.3.self_attn.k_proj.weight".into(), block: None });
        let wrapped = "roberta.encoder.layers.3.mixer.Wqkv.parametrizations.weight.original";
        assert_eq!(places[5], Place { name: wrapped.into(), block: Some((1, 3)) });
    }

    #[test]
    fn jinas_other_tensors_have_their_published_names() {
        let published = |name: &str| names(EncoderNames::Jina, name).swap_remove(0);
        assert_eq!(published("embeddings.LayerNorm.bias"), "emb_ln.bias");
        assert_eq!(published("embeddings.word_embeddings.weight"), "embeddings.word_embeddings.weight");
        assert_eq!(published("layers.0.self_attn.o_proj.bias"), "encoder.layers.0.mixer.out_proj.bias");
        assert_eq!(published("layers.0.post_attention_layernorm.weight"), "encoder.layers.0.norm1.weight");
        assert_eq!(published("layers.0.post_mlp_layernorm.weight"), "encoder.layers.0.norm2.weight");
        assert_eq!(published("layers.0.mlp.fc1.weight"), "encoder.layers.0.mlp.fc1.weight");
    }

    #[test]
    fn a_bert_under_a_head_or_from_tensorflow_is_found() {
        let names = names(EncoderNames::Bert, "embeddings.LayerNorm.weight");
        assert_eq!(
            names,
            [
                "embeddings.LayerNorm.weight",
                "embeddings.LayerNorm.gamma",
                "bert.embeddings.LayerNorm.weight",
                "bert.embeddings.LayerNorm.gamma",
                "roberta.embeddings.LayerNorm.weight",
                "roberta.embeddings.LayerNorm.gamma",
            ]
        );
    }
}
