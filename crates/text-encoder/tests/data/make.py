"""Makes the fixture of crates/text-encoder: a tiny tokenizer, two tiny T5 encoders, and what
LlamaGen's embedder (its language/t5.py and the left-padding of autoregressive/sample/sample_t2i.py)
gives with them."""
import json, sys, importlib.util, os, torch
import numpy as np
from tokenizers import Tokenizer, models, trainers, pre_tokenizers, processors, decoders, normalizers
from transformers import T5Config, T5EncoderModel, PreTrainedTokenizerFast
from safetensors.torch import save_file

out = sys.argv[1]; ref = sys.argv[2]
os.makedirs(out, exist_ok=True)
spec = importlib.util.spec_from_file_location("t5", ref)
t5 = importlib.util.module_from_spec(spec); spec.loader.exec_module(t5)

corpus = ["a portrait photo of a kangaroo wearing an orange hoodie and blue sunglasses",
 "a blue porsche parked in front of a yellow brick wall", "a photo of an astronaut riding a horse in the forest",
 "there is a river in front of them with water lilies", "a map of the united states made out of sushi",
 "it is on a table next to a glass of red wine", "two red apples on a white plate", "a small green house by the sea"] * 3
tok = Tokenizer(models.Unigram())
tok.normalizer = normalizers.NFKC()
tok.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
tok.decoder = decoders.Metaspace(replacement="▁", prepend_scheme="always")
tok.train_from_iterator(corpus, trainers.UnigramTrainer(vocab_size=150, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>"))
tok.post_processor = processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)])
tok.save(f"{out}/tokenizer.json", pretty=False)
fast = PreTrainedTokenizerFast(tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right")
V = tok.get_vocab_size()

LENGTH = 120
captions = ["Two RED apples on a white plate!", "a photo of an astronaut riding a horse in the forest, there is a river",
  "", " ".join(corpus[:8])[:600], "x"]
tensors = {}
for name, act, kv, heads in [("gated", "gated-gelu", 6, 4), ("relu", "relu", 4, 3)]:
    torch.manual_seed(1)
    cfg = T5Config(vocab_size=V + 2, d_model=16, d_kv=kv, d_ff=24, num_layers=2, num_heads=heads, feed_forward_proj=act,
                   relative_attention_num_buckets=32, relative_attention_max_distance=128, dropout_rate=0.1)
    m = T5EncoderModel(cfg).eval()
    with torch.no_grad():
        for k, p in m.named_parameters():
            if "layer_norm" in k: p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "shared" in k: p.copy_(torch.randn_like(p))
            elif "relative" in k: p.copy_(2 * torch.randn_like(p))
            else: p.copy_(0.5 * torch.randn_like(p))
    os.makedirs(f"{out}/{name}", exist_ok=True)
    json.dump(cfg.to_dict(), open(f"{out}/{name}/config.json", "w"), indent=1, default=str)
    sd = {k: v.clone() for k, v in m.state_dict().items() if k != "encoder.embed_tokens.weight"}
    save_file(sd, f"{out}/{name}/model.safetensors")
    e = t5.T5Embedder.__new__(t5.T5Embedder)
    e.device = torch.device("cpu"); e.use_text_preprocessing = True; e.tokenizer = fast; e.model = m; e.model_max_length = LENGTH
    embs, masks = e.get_text_embeddings(captions)
    # autoregressive/sample/sample_t2i.py
    new_masks = torch.flip(masks, dims=[-1])
    new = torch.stack([torch.cat([c[int(k.sum()):], c[:int(k.sum())]]) for c, k in zip(embs, masks)])
    new = new * new_masks[:, :, None]
    counts = masks.sum(1).tolist(); print(name, counts, new.abs().max().item())
    tensors[f"{name}.embeddings"] = torch.cat([new[i, LENGTH - n:] for i, n in enumerate(counts)])
    # without the mask: what must not come out
    with torch.no_grad():
        ids = fast(t5.T5Embedder.text_preprocessing(e, captions[0]), max_length=LENGTH, padding="max_length", truncation=True, return_tensors="pt").input_ids
        tensors[f"{name}.unmasked"] = m(input_ids=ids).last_hidden_state[0, :counts[0]].clone()
    print("unmasked differs by", (tensors[f"{name}.unmasked"] - tensors[f"{name}.embeddings"][:counts[0]]).abs().max().item())
save_file({k: v.contiguous() for k, v in tensors.items()}, f"{out}/expected.safetensors")
json.dump({"captions": captions, "counts": counts}, open(f"{out}/captions.json", "w"))
