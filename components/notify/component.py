"""The message about how a run ended as a Kubeflow component."""

from kfp import dsl

from components.image import IMAGE


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def notify(pipeline: str, pipeline_run: str, status: dsl.PipelineTaskFinalStatus) -> None:
    """Tell the webhook how the run ended, with decision and figures, or what failed.

    Args:
        pipeline: the pipeline's name.
        pipeline_run: Kubeflow's id of the run.
        status: what Kubeflow says of all steps before this one.
    """
    from mvqkd.adapters.notify import notify

    error = status.error_message or ""
    notify(pipeline=pipeline, pipeline_run=pipeline_run, state=status.state, error=error)
