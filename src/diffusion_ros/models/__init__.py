"""Checkpoints behind numpy. A file a kind: what its spec must hold, its entry points, its dry run, its wrapper."""

from diffusion_ros.models import camera_guard, image_generator, planner, policy, rl_policy

KINDS = {
    kind.name: kind
    for kind in (
        policy.KIND,
        planner.KIND,
        rl_policy.DISCRETE,
        rl_policy.CONTINUOUS,
        image_generator.KIND,
        camera_guard.KIND,
    )
}
"""All kinds by name."""
