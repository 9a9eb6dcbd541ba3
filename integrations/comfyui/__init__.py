"""SingleInsert in ComfyUI: put a trained concept on a model, see where it acts, train one. README.md says how."""

from .apply import ApplyConcept, LoadConcept
from .attention import ConceptAttention
from .train import TrainConcept

NODE_CLASS_MAPPINGS = {
    "SingleInsertLoadConcept": LoadConcept,
    "SingleInsertApplyConcept": ApplyConcept,
    "SingleInsertConceptAttention": ConceptAttention,
    "SingleInsertTrainConcept": TrainConcept,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SingleInsertLoadConcept": "Load Concept (SingleInsert)",
    "SingleInsertApplyConcept": "Apply Concept (SingleInsert)",
    "SingleInsertConceptAttention": "Concept Attention (SingleInsert)",
    "SingleInsertTrainConcept": "Train Concept (SingleInsert)",
}
__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
