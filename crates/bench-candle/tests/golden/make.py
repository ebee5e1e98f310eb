"""Makes the golden values: what Hugging Face transformers and PEFT compute on tiny seeded models.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python make.py [FAMILY...]

Per family, a folder holds a model, an adapter with random numbers, and golden.json: for one row of
token ids the negative log-likelihood of each token after the first, of the base and with the adapter,
and the losses and the last adapter norm of steps with AdamW, weight decay and clipping.
"""

import copy
import json
import pathlib
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM,
    Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM)

HERE = pathlib.Path(__file__).parent
SHAPE = dict(
    vocab_size=96, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    rms_norm_eps=1e-5, initializer_range=0.3,
)
LLAMA3 = dict(rope_type="llama3", rope_theta=10000.0, factor=4.0, low_freq_factor=1.0,
              high_freq_factor=4.0, original_max_position_embeddings=64)
FAMILIES = {
    "llama": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama3": LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=False, rope_parameters=LLAMA3)),
    "qwen2": Qwen2ForCausalLM(Qwen2Config(**SHAPE, tie_word_embeddings=True)),
    "qwen3": Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=8, tie_word_embeddings=True)),
    # Windows shorter than the row, so that they matter.
    "mistral": MistralForCausalLM(MistralConfig(**SHAPE, head_dim=6, sliding_window=16,
                                                tie_word_embeddings=False)),
    "gemma3": Gemma3ForCausalLM(Gemma3TextConfig(
        **SHAPE, head_dim=8, sliding_window=16, query_pre_attn_scalar=12, tie_word_embeddings=True,
        layer_types=["sliding_attention", "full_attention"])),
}
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def losses(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].double()
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()


def main():
    chosen = sys.argv[1:] or FAMILIES
    for name, model in FAMILIES.items():
        if name not in chosen:
            continue
        torch.manual_seed(1)
        for parameter in model.parameters():
            if parameter.dim() == 1:
                centre = 1.0 if parameter.mean() > 0.5 else 0.0
                parameter.data = centre + 0.2 * torch.randn_like(parameter)
            else:
                parameter.data = 0.3 * torch.randn_like(parameter)
        model.eval()
        folder = HERE / name
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)
        ids = torch.randint(0, SHAPE["vocab_size"], (1, 60))
        base = losses(model, ids)
        peft = get_peft_model(copy.deepcopy(model), LoraConfig(
            r=4, lora_alpha=8, target_modules=MODULES, task_type="CAUSAL_LM",
            base_model_name_or_path=name))
        for key, parameter in peft.named_parameters():
            if "lora_" in key:
                parameter.data = 0.1 * torch.randn_like(parameter)
        peft.eval()
        peft.save_pretrained(folder / "adapter")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        adapted = losses(peft, ids)
        trained = [p for p in peft.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=1e-2, weight_decay=0.1)
        course = []
        for _ in range(8):
            loss = peft(input_ids=ids, labels=ids).loss
            course.append(loss.item())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()
        norm = torch.sqrt(sum((p.detach().double() ** 2).sum() for p in trained)).item()
        golden = dict(ids=ids[0].tolist(), base=base, adapted=adapted, course=course, norm=norm)
        (folder / "golden.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
