"""What a user would search a device's rows with: torch, and packages where they can be imported. Each gives (N,) the nearest row."""
import inspect
from collections.abc import Callable, Iterator
from functools import partial

import torch

Nearest = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def torch_product(query: torch.Tensor, reference: torch.Tensor, chunk: int = 4096) -> torch.Tensor:
    """|y|^2 - 2 x y in float32, in chunks of queries."""
    query, reference = query.float(), reference.float()
    norms = reference.square().sum(1)
    return torch.cat([(norms - 2 * (part @ reference.T)).min(1).indices for part in query.split(chunk)])


def torch_cdist(query: torch.Tensor, reference: torch.Tensor, chunk: int = 4096) -> torch.Tensor:
    """torch.cdist and topk, in chunks of queries."""
    query, reference = query.float(), reference.float()
    return torch.cat([torch.cdist(part, reference).topk(1, largest=False).indices[:, 0] for part in query.split(chunk)])


def torch_int_mm(query: torch.Tensor, reference: torch.Tensor, chunk: int = 4096) -> torch.Tensor:
    """torch._int_mm of uint8 rows shifted by 128, then min: exact. Chunks and rows by eights, as it wants them."""
    query, reference = ((rows ^ 128).view(torch.int8) for rows in (query, reference))
    norms = reference.int().square().sum(1, dtype=torch.int32)
    return torch.cat([(norms - 2 * torch._int_mm(part, reference.T)).min(1).indices for part in query.split(chunk)])


def flash_kmeans(query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The assignment kernel of flash-kmeans: rows to their nearest center."""
    from flash_kmeans.assign_euclid_triton import euclid_assign_triton as assign

    query, reference = query.float()[None], reference.float()[None]
    squares = {"x_sq": query.square().sum(-1)} if "x_sq" in inspect.signature(assign).parameters else {}
    return assign(query, reference, **squares)[0].long()


def faiss_gpu(query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """faiss's exhaustive search on the device."""
    import faiss
    import faiss.contrib.torch_utils

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("faiss is built for the CPU")
    return faiss.knn_gpu(faiss.StandardGpuResources(), query.float(), reference.float(), 1)[1][:, 0]


def cuvs(query: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """The exhaustive search of cuVS."""
    from cuvs.neighbors import brute_force

    index = brute_force.build(reference.float(), metric="sqeuclidean")
    return torch.as_tensor(brute_force.search(index, query.float(), 1)[1], device=query.device)[:, 0].long()


def nearest_of(dtype: str) -> Iterator[tuple[str, Nearest]]:
    """(name, search) of all that take rows of this element type; a package that is not there raises ImportError when called."""
    if dtype == "uint8":
        yield "torch._int_mm + min", torch_int_mm
    yield "torch float32 product + min", torch_product
    yield "torch.cdist + topk", partial(torch_cdist, chunk=1024)
    yield "flash-kmeans assignment", flash_kmeans
    yield "faiss-gpu", faiss_gpu
    yield "cuVS brute force", cuvs
