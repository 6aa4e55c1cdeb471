"""What the checks may look at, as the current platform shows it. Nothing is changed."""

from tasks.plan.checks import World
from tasks.platform import current_platform
from tasks.platform.local import is_free
from tasks.settings import settings
from tasks.workspace import Workspace


async def look_around(workspace: Workspace, *, push: bool, port: int | None) -> World:
    """What the checks need to know of this platform."""
    platform = current_platform()
    secret = workspace.tuning.output.image_push_secret if workspace.tuning else None
    found = await platform.docker_config(workspace, secret) if push and secret else None
    name = workspace.config_name
    data = await platform.read_config_map(workspace, name) if name else None
    endpoint = (await platform.read_status(workspace)).endpoint
    own_port = int(endpoint.url.rsplit(":", 1)[1]) if endpoint else None
    ours = own_port if platform.is_serving(workspace) else None
    return World(
        node=await platform.node(),
        config_maps={name: data} if name and data is not None else {},
        has_secret=lambda _name: found is not None,
        home=settings().home_dir,
        push=push,
        port=port,
        port_is_free=lambda number: number == ours or is_free(number),
    )
