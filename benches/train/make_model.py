"""Makes a model folder of a known shape with random seeded weights and a tokenizer of whole words.

    python make_model.py smollm2-135m|qwen2.5-0.5b|llama-3.2-1b FOLDER

Time and memory of a training step depend on the shape and not on the numbers, so that nothing needs
to be downloaded.
"""

import json
import pathlib
import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "smollm2-135m": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=49152, hidden_size=576, intermediate_size=1536, num_hidden_layers=30,
        num_attention_heads=9, num_key_value_heads=3, max_position_embeddings=8192,
        rope_theta=100000.0, rms_norm_eps=1e-5, tie_word_embeddings=True)),
    "qwen2.5-0.5b": lambda: Qwen2ForCausalLM(Qwen2Config(
        vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
        num_attention_heads=14, num_key_value_heads=2, max_position_embeddings=32768,
        rope_theta=1000000.0, rms_norm_eps=1e-6, tie_word_embeddings=True)),
    "llama-3.2-1b": lambda: LlamaForCausalLM(LlamaConfig(
        vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, max_position_embeddings=8192,
        rope_theta=500000.0, rms_norm_eps=1e-5, tie_word_embeddings=True)),
}
# The words that the example `train_speed` writes.
WORDS = ["river", "seven", "of", "stone", "and", "went", "blue", "the", "market"]


def main():
    shape, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    torch.manual_seed(0)
    # A GPU's shape is kept as it is served there.
    model = SHAPES[shape]().to(torch.bfloat16 if shape == "llama-3.2-1b" else torch.float32)
    model.save_pretrained(folder)
    size = model.config.vocab_size
    words = ["<s>", "</s>", *WORDS]
    words += [f"w{i}" for i in range(size - len(words))]
    special = [{"id": i, "content": words[i], "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i in range(2)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special,
        "normalizer": None, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "unk_token": "<s>",
                  "vocab": {word: i for i, word in enumerate(words)}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    # With a template it can be served too.
    template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(
        {"bos_token": "<s>", "eos_token": "</s>", "tokenizer_class": "PreTrainedTokenizerFast",
         "chat_template": template}))
    # The server looks for the rotation's base where older files have it.
    config = json.loads((folder / "config.json").read_text())
    config.setdefault("rope_theta", config.get("rope_parameters", {}).get("rope_theta"))
    config |= {"bos_token_id": 0, "eos_token_id": 1}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


if __name__ == "__main__":
    main()
