"""The part of the pipeline that encodes codebook indexes in several pods and joins what they wrote.

A pipeline of its own inside the other, for the graph's sake, and because kfp's local runner gives a loop's body the
loop's item in place of every parameter that another task of the same level has computed.
"""

from typing import NamedTuple

from kfp import dsl

from components.encode_ci.component import encode_ci
from components.merge_ci.component import merge_ci
from components.plan_shards.component import plan_shards
from pipelines.cluster import ClusterConfig
from pipelines.settle import settle


class Indexes(NamedTuple):
    """Outputs of this part."""

    codebook_indexes: dsl.Dataset
    codebook_indexes_id: str


def encode_in_shards_on(cluster: ClusterConfig) -> dsl.graph_component.GraphComponent:
    """``encode_in_shards`` with a cluster's settings."""

    @dsl.pipeline(name="encode-in-shards", description="Encode codebook indexes in several pods; join the parts.")
    def encode_in_shards(
        config: str,
        num_shards: int,
        data: dsl.Input[dsl.Dataset],
        data_id: str,
        teacher_embeddings: dsl.Input[dsl.Dataset],
        teacher_embeddings_id: str,
        quantizer: dsl.Input[dsl.Model],
        quantizer_id: str,
    ) -> Indexes:
        ranks = settle(plan_shards(num_shards=num_shards), cluster, "plan-shards").output
        with dsl.ParallelFor(ranks, name="shards", parallelism=cluster.parallel_shards) as rank:
            part = encode_ci(
                config=config,
                rank=rank,
                world_size=num_shards,
                data=data,
                data_id=data_id,
                teacher_embeddings=teacher_embeddings,
                teacher_embeddings_id=teacher_embeddings_id,
                quantizer=quantizer,
                quantizer_id=quantizer_id,
            )
            settle(part, cluster, "encode-ci")
        merged = merge_ci(
            parts=dsl.Collected(part.outputs["codebook_indexes"]),
            part_ids=dsl.Collected(part.outputs["artifact_id"]),
        )
        settle(merged, cluster, "merge-ci")
        return Indexes(merged.outputs["codebook_indexes"], merged.outputs["artifact_id"])

    return encode_in_shards
