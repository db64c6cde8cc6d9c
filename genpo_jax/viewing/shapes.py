"""Describe how a MuJoCo model looks, small enough for a page: shapes, colors, textures."""

import base64
import io
from typing import Any, NamedTuple

import mujoco
import numpy as np

from genpo_jax.viewing.packing import INT16, packed, rounded

TYPES = {
    mujoco.mjtGeom.mjGEOM_PLANE: "plane",
    mujoco.mjtGeom.mjGEOM_HFIELD: "mesh",
    mujoco.mjtGeom.mjGEOM_SPHERE: "sphere",
    mujoco.mjtGeom.mjGEOM_CAPSULE: "capsule",
    mujoco.mjtGeom.mjGEOM_ELLIPSOID: "ellipsoid",
    mujoco.mjtGeom.mjGEOM_CYLINDER: "cylinder",
    mujoco.mjtGeom.mjGEOM_BOX: "box",
    mujoco.mjtGeom.mjGEOM_MESH: "mesh",
}
# Groups 3 and higher hold collision shapes; MuJoCo's viewer hides them too.
VISIBLE_GROUPS = 3
# MuJoCo's color of a geom that has none; another color takes precedence over that of the material.
DEFAULT_RGBA = (0.5, 0.5, 0.5, 1.0)
# The page draws neither shadows nor reflections, in which the shape of a black robot could be seen.
DARKEST = 0.3
# All meshes of a model together; a robot's meshes may have hundreds of thousands, too many to see.
MAX_TRIANGLES = 30_000
# Most rows, and most columns, of a height field.
MAX_ROWS = 96
# Most pixels on the longer side of a texture.
MAX_PIXELS = 256


class Mesh(NamedTuple):
    """A triangle mesh.

    Attributes:
        points: vertices `[n, 3]`, in meters.
        faces: indices of the vertices of each triangle `[m, 3]`.
        uv: texture coordinates of each vertex `[n, 2]`; None without a texture.
    """

    points: np.ndarray
    faces: np.ndarray
    uv: np.ndarray | None = None


def scene(model: mujoco.MjModel) -> dict[str, Any]:
    """Return the geoms for `player.js`, ready for JSON; geoms that MuJoCo's viewer hides are left out."""
    drawn = [
        i
        for i in range(model.ngeom)
        if mujoco.mjtGeom(model.geom_type[i]) in TYPES and model.geom_group[i] < VISIBLE_GROUPS and _color(model, i)[3]
    ]
    numbers = {int(model.geom_dataid[i]): i for i in drawn if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_MESH}
    simplified = dict(zip(numbers, simplify([_mesh(model, i) for i in numbers.values()]), strict=True))
    fields = {f"field{model.geom_dataid[i]}": i for i in drawn if model.geom_type[i] == mujoco.mjtGeom.mjGEOM_HFIELD}
    meshes = {str(name): mesh for name, mesh in simplified.items()}
    meshes |= {name: _height_field(model, i) for name, i in fields.items()}
    textures: dict[int, int] = {}
    geoms = [_geom(model, i, meshes, textures) for i in drawn]
    return {
        "geoms": geoms,
        "meshes": {name: _packed_mesh(mesh) for name, mesh in meshes.items()},
        "textures": [_texture_url(model, number) for number in textures],
        "bodies": [model.body(i).name for i in range(model.nbody)],
    }


def _geom(model: mujoco.MjModel, i: int, meshes: dict[str, Mesh], textures: dict[int, int]) -> dict[str, Any]:
    """Return one geom; add its texture to `textures`, which holds the index on the page of each texture."""
    kind, data = mujoco.mjtGeom(model.geom_type[i]), int(model.geom_dataid[i])
    geom: dict[str, Any] = {
        "type": TYPES[kind],
        "size": rounded(model.geom_size[i]),
        "pos": rounded(model.geom_pos[i]),
        "quat": rounded(model.geom_quat[i]),
        "body": int(model.geom_bodyid[i]),
    }
    if geom["type"] == "mesh":
        geom["mesh"] = str(data) if kind == mujoco.mjtGeom.mjGEOM_MESH else f"field{data}"
    color, texture = _color(model, i), _texture(model, i)
    on_plane = kind == mujoco.mjtGeom.mjGEOM_PLANE
    if texture is not None:
        flat = model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_2D
        if flat and (on_plane or (geom["type"] == "mesh" and meshes[geom["mesh"]].uv is not None)):
            geom["texture"] = textures.setdefault(texture, len(textures))
            if on_plane:
                geom["repeats"] = rounded(_repeats(model, i))
        else:
            color = color * np.append(_pixels(model, texture).mean(axis=(0, 1)) / 255, 1.0)
    plain = not on_plane and "texture" not in geom
    return geom | {"rgba": rounded(_lightened(color) if plain else color)}


def _lightened(color: np.ndarray) -> np.ndarray:
    """Return a color whose brightest channel is at least `DARKEST`, with the same differences between the channels."""
    return np.append(color[:3] + max(0.0, DARKEST - color[:3].max()), color[3])


def _color(model: mujoco.MjModel, i: int) -> np.ndarray:
    material = model.geom_matid[i]
    if material < 0 or not np.allclose(model.geom_rgba[i], DEFAULT_RGBA):
        return model.geom_rgba[i]
    return model.mat_rgba[material]


def _texture(model: mujoco.MjModel, i: int) -> int | None:
    """Return the index of a geom's color texture, or None."""
    material = model.geom_matid[i]
    if material < 0:
        return None
    roles = np.atleast_1d(model.mat_texid[material])
    numbers = [int(roles[role]) for role in (mujoco.mjtTextureRole.mjTEXROLE_RGB, mujoco.mjtTextureRole.mjTEXROLE_RGBA)]
    return next((number for number in numbers if number >= 0), None)


def _repeats(model: mujoco.MjModel, i: int) -> np.ndarray:
    """Return the repeats per meter of the texture of a plane or height field, as MuJoCo's renderer draws it."""
    material, half = model.geom_matid[i], model.geom_size[i, :2]
    repeat = model.mat_texrepeat[material] / 2
    endless = bool(model.mat_texuniform[material]) | (half == 0)
    return np.where(endless, repeat, repeat / np.where(half == 0, 1.0, half))


def _pixels(model: mujoco.MjModel, texture: int) -> np.ndarray:
    """Return a texture `[height, width, 3]` in 0 to 255; the sides of a cube texture are stacked vertically."""
    height, width, channels = model.tex_height[texture], model.tex_width[texture], model.tex_nchannel[texture]
    first = model.tex_adr[texture]
    pixels = model.tex_data[first : first + height * width * channels].reshape(height, width, channels)
    return np.repeat(pixels, 3, axis=-1) if channels < 3 else pixels[..., :3]


def _texture_url(model: mujoco.MjModel, texture: int) -> str:
    """Return a texture as a data URL of a small PNG."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(_pixels(model, texture)))
    image.thumbnail((MAX_PIXELS, MAX_PIXELS))
    file = io.BytesIO()
    image.quantize(64).save(file, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _mesh(model: mujoco.MjModel, i: int) -> Mesh:
    """Return the mesh of a geom, with texture coordinates if it has a texture."""
    number = model.geom_dataid[i]
    first, count = model.mesh_vertadr[number], model.mesh_vertnum[number]
    at, faces = model.mesh_faceadr[number], model.mesh_facenum[number]
    points, corners = model.mesh_vert[first : first + count], model.mesh_face[at : at + faces]
    if _texture(model, i) is None or model.mesh_texcoordnum[number] == 0:
        return Mesh(points, corners)
    # A vertex may have different texture coordinates in each of its faces.
    uv = model.mesh_texcoord[model.mesh_texcoordadr[number] + model.mesh_facetexcoord[at : at + faces]]
    return Mesh(points[corners].reshape(-1, 3), np.arange(3 * faces).reshape(-1, 3), uv.reshape(-1, 2))


def _height_field(model: mujoco.MjModel, i: int) -> Mesh:
    """Return the surface of a geom's height field, with at most `MAX_ROWS` rows and columns."""
    number = model.geom_dataid[i]
    rows, columns = model.hfield_nrow[number], model.hfield_ncol[number]
    x, y, top, _ = model.hfield_size[number]
    first = model.hfield_adr[number]
    heights = top * model.hfield_data[first : first + rows * columns].reshape(rows, columns)
    down, along = (np.unique(np.linspace(0, n - 1, min(n, MAX_ROWS)).round().astype(int)) for n in (rows, columns))
    at_y, at_x = np.meshgrid(np.linspace(-y, y, rows)[down], np.linspace(-x, x, columns)[along], indexing="ij")
    points = np.stack([at_x, at_y, heights[np.ix_(down, along)]], axis=-1).reshape(-1, 3)
    index = np.arange(len(points)).reshape(at_x.shape)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    uv = None if _texture(model, i) is None else points[:, :2] * _repeats(model, i)
    return Mesh(points, np.stack([a, b, c, a, c, d], axis=-1).reshape(-1, 3), uv)


def simplify(meshes: list[Mesh]) -> list[Mesh]:
    """Simplify meshes until they have at most `MAX_TRIANGLES` together."""
    size = max((np.ptp(mesh.points, axis=0).max() for mesh in meshes), default=0.0)
    cells, simplified = 1024.0, meshes
    while sum(len(mesh.faces) for mesh in simplified) > MAX_TRIANGLES:
        simplified = [_clustered(mesh, size / cells) for mesh in meshes]
        cells /= 1.3
    return simplified


def _clustered(mesh: Mesh, cell: float) -> Mesh:
    """Merge the vertices of each grid cell of `cell` meters, and drop triangles that collapse (vertex clustering).

    Vertices that are far apart on the texture are not merged (Rossignac and Borrel 1993, Multi-resolution 3D
    approximations).
    """
    keys = np.floor(mesh.points / cell)
    if mesh.uv is not None:
        keys = np.hstack([keys, np.floor(mesh.uv * MAX_PIXELS / 4)])
    _, group, counts = np.unique(_row_ids(keys), return_inverse=True, return_counts=True)

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack([np.bincount(group, column) for column in values.T], axis=-1) / counts[:, None]

    faces = group[mesh.faces]
    a, b, c = faces.T
    faces = faces[(a != b) & (b != c) & (c != a)]
    # Rotate each triangle so that its lowest index comes first: duplicates are then equal rows.
    first = np.argmin(faces, axis=1)[:, None]
    faces = np.take_along_axis(faces, (first + np.arange(3)) % 3, axis=1)
    faces = faces[np.unique(_row_ids(faces), return_index=True)[1]]
    return Mesh(mean(mesh.points), faces, None if mesh.uv is None else mean(mesh.uv))


def _row_ids(rows: np.ndarray) -> np.ndarray:
    """Return an id for each row of integers; equal rows have equal ids."""
    rows = (rows - rows.min(axis=0, initial=0)).astype(np.int64)
    return np.asarray(np.ravel_multi_index(tuple(rows.T), tuple(rows.max(axis=0, initial=0) + 1)))


def _packed_mesh(mesh: Mesh) -> dict[str, Any]:
    """Return a mesh as text, with points in units of `scale`."""
    scale = max(float(np.abs(mesh.points).max(initial=0.0)), 1e-6) / INT16
    parts: dict[str, Any] = {
        "scale": scale,
        "points": packed(np.rint(mesh.points / scale), np.int16),
        "faces": packed(mesh.faces, np.uint16 if len(mesh.points) < 2**16 else np.uint32),
    }
    return parts if mesh.uv is None else parts | {"uv": packed(mesh.uv, np.float32)}
