"""The numbers of the shards that encode-ci is divided into, as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def plan_shards(num_shards: int) -> list[int]:
    """Number the shards that encode-ci is divided into.

    Args:
        num_shards: how many, 1 or more.

    Returns:
        0 to num_shards - 1.
    """
    from mvqkd.adapters.kubeflow import shard_ranks

    return shard_ranks(num_shards)
