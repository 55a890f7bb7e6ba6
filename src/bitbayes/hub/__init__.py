"""Folders of pretrained networks and posteriors with a model card, and the Hugging Face Hub. Needs no torch."""

from bitbayes.hub.card import METRICS, ModelCard
from bitbayes.hub.pretrained import Pretrained
from bitbayes.hub.remote import fetched, push
from bitbayes.hub.render import Description, load_call

__all__ = ["METRICS", "Description", "ModelCard", "Pretrained", "fetched", "load_call", "push"]
