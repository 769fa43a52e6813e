"""Nearest codes in torch (composed) and FAISS (IndexFlatL2, k = 1)."""

try:
    import faiss
except ImportError:
    faiss = None


def about(threads):
    if faiss is not None:
        faiss.omp_set_num_threads(threads)
        ABOUT.append(f"faiss {faiss.__version__}")


def prepare(case, tool):
    vectors = pattern("vectors", (case["vectors"], case["dim"]))
    codebook = pattern("codebook", (case["codes"], case["dim"]))
    if tool == "torch" and DEVICE[0] != "cpu":
        return inference(lambda: [torch.cdist(vectors[None], codebook[None])[0].argmin(dim=1)])
    if tool == "torch":
        norms = (codebook * codebook).sum(1)
        return inference(lambda: [torch.argmin(norms - 2 * vectors @ codebook.T, dim=1)])
    if faiss is None:
        return None
    index = faiss.IndexFlatL2(case["dim"])
    index.add(codebook.cpu().numpy())
    vectors = vectors.cpu().numpy()
    return lambda: [index.search(vectors, 1)[1][:, 0]]


serve(prepare, about)
