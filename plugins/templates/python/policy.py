"""A policy: dataset statistics in, decision out. It trains what there is enough of."""

from wit_world import exports
from wit_world.exports.selection_policy import (
    DatasetStatistics,
    Decision,
    Decision_Insufficient,
    Decision_Train,
    Insufficiency,
    PolicyConfig,
    Shortfall,
    TrainingChoice,
)
from wit_world.imports.types import ExampleKind, ModelType, TrainingMethod


class SelectionPolicy(exports.SelectionPolicy):
    def decide(self, config: PolicyConfig, statistics: DatasetStatistics) -> Decision:
        if statistics.model_type == ModelType.LLM:
            method, kind = TrainingMethod.SFT, ExampleKind.APPROVED_EXAMPLE
            have, need = statistics.approved_examples, config.min_sft_examples
        else:
            method, kind = TrainingMethod.TRIPLET, ExampleKind.TRIPLET
            have, need = statistics.triplets, config.min_triplets
        need = max(need, 1)
        if have < need:
            reason = f"{have} of at least {need} examples"
            return Decision_Insufficient(Insufficiency([Shortfall(kind, have, need)], reason))
        confidence = min(have / (2 * need), 1.0)
        return Decision_Train(TrainingChoice(method, confidence, f"{have} examples, {need} needed"))
