"""The peer: steps of LoRA training with Hugging Face transformers and PEFT, in f32 on the processor.

    python hf_bench.py MODEL ROWS TOKENS STEPS [checkpointing] [cuda] [unsloth]

`cuda`: the base in bf16 on the first GPU, the adapter in f32; `unsloth`: by Unsloth's patched model. Prints one line of JSON. The first step is
left out: it warms up.
"""

import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def batch(step, rows, tokens):
    """The rows of words that the example `train_speed` writes, as `make_model.py` numbers them."""
    return torch.tensor([[2 + (i * (row + 3) + i // 7) % 9 for i in range(tokens)]
                         for row in range(step * rows, (step + 1) * rows)])


def main():
    path, rows, tokens, steps = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    device = "cuda" if "cuda" in sys.argv[5:] else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    checkpointing = "checkpointing" in sys.argv[5:]
    if "unsloth" in sys.argv[5:]:
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(path, dtype=dtype, load_in_4bit=False)
        model = FastLanguageModel.get_peft_model(
            model, r=16, lora_alpha=32, target_modules=MODULES,
            use_gradient_checkpointing="unsloth" if checkpointing else False)
    else:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        model = get_peft_model(
            model, LoraConfig(r=16, lora_alpha=32, target_modules=MODULES, task_type="CAUSAL_LM"))
    model.config.use_cache = False
    if checkpointing and "unsloth" not in sys.argv[5:]:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.to(device).train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    wall, cpu, losses = [], [], []
    for step in range(steps + 1):
        ids = batch(step, rows, tokens).to(device)
        start, cpu_start = time.perf_counter(), time.process_time()
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    n = rows * tokens * steps
    print(json.dumps({
        "tokens_per_second": round(n / sum(wall[1:]), 1),
        "tokens_per_cpu_second": round(n / sum(cpu[1:]), 1),
        "seconds_per_step": round(sum(wall[1:]) / steps, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "losses": losses,
    }))


if __name__ == "__main__":
    main()
