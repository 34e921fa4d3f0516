use plugin_settings::Settings;

use super::documents::Document;

/// Chooses the documents that did not help.
pub(crate) struct Negatives {
    strategy: Strategy,
    /// At most, of those that were not called irrelevant explicitly.
    count: usize,
}

enum Strategy {
    /// The highest ranks: what the engine wrongly liked best.
    TopK,
    /// The highest ranks among scores from here on.
    AboveThreshold(f64),
    /// By a hash of this seed, the span and the rank: the same whatever else is in the batch.
    Random(u64),
}

impl Negatives {
    pub(crate) fn new(settings: &Settings) -> Result<Self, String> {
        const EXPECTED: &str = "a whole number from 1 on";
        let count = settings.number("negatives", 3, EXPECTED)?;
        if count == 0 {
            return Err(format!("setting `negatives` is `0`; give {EXPECTED}"));
        }
        let seed = settings.number("seed", 0, "a whole number")?;
        let strategy = match settings.text("strategy").unwrap_or("top_k") {
            "top_k" => Strategy::TopK,
            "above_threshold" => Strategy::AboveThreshold(min_score(settings)?),
            "random" => Strategy::Random(seed),
            unknown => {
                return Err(format!("setting `strategy` is `{unknown}`; give `top_k`, `above_threshold` or `random`"));
            }
        };
        Ok(Self { strategy, count })
    }

    /// All that someone called irrelevant; where there is none, of the ignored ones by the strategy.
    pub(crate) fn choose<'a>(&self, span_id: &str, documents: &'a [Document]) -> Vec<&'a Document> {
        let irrelevant: Vec<&Document> = documents.iter().filter(|document| document.is_irrelevant()).collect();
        if !irrelevant.is_empty() {
            return irrelevant;
        }
        let mut ignored: Vec<&Document> = documents.iter().filter(|document| document.is_ignored()).collect();
        match self.strategy {
            Strategy::TopK => {}
            Strategy::AboveThreshold(min_score) => {
                ignored.retain(|document| document.score.is_some_and(|score| score >= min_score));
            }
            Strategy::Random(seed) => return draw(ignored, self.count, |it| hash(seed, span_id, it.position)),
        }
        ignored.truncate(self.count);
        ignored
    }
}

fn min_score(settings: &Settings) -> Result<f64, String> {
    let text =
        settings.text("min_score").ok_or("strategy `above_threshold` needs the setting `min_score`; give a number")?;
    // By serde_json, which is here anyway: the standard library's parser would be 15 KB more in the component.
    serde_json::from_str(text).map_err(|_| format!("setting `min_score` is `{text}`; give a number"))
}

/// The `count` documents with the smallest keys. Not a sort: the documents are few, and the standard library's sorts
/// would be 46 KB more in the component.
fn draw(mut from: Vec<&Document>, count: usize, key: impl Fn(&Document) -> u64) -> Vec<&Document> {
    let draw_one = |_| {
        let smallest = (0..from.len()).min_by_key(|&index| key(from[index]))?;
        Some(from.swap_remove(smallest))
    };
    (0..count).map_while(draw_one).collect()
}

/// FNV-1a over all three, then the finaliser of splitmix64, because FNV's high bits hardly see the last byte.
fn hash(seed: u64, span_id: &str, position: u32) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(span_id.bytes()).chain(position.to_le_bytes());
    let fnv =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let mixed = (fnv ^ (fnv >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
