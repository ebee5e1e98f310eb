"""The peer: steps of LoRA training with Hugging Face transformers and PEFT, in f32 on the processor.

    python hf_bench.py MODEL ROWS TOKENS STEPS [checkpointing]

Prints one line of JSON. The first step is left out: it warms up.
"""

import json
import resource
import sys
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def main():
    path, rows, tokens, steps = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(2)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    model = get_peft_model(
        model, LoraConfig(r=16, lora_alpha=32, target_modules=MODULES, task_type="CAUSAL_LM"))
    model.config.use_cache = False
    if "checkpointing" in sys.argv[5:]:
        model.gradient_checkpointing_enable()
        model.enable_input_require_grads()
    model.train()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4)
    wall, cpu = [], []
    for _ in range(steps + 1):
        ids = torch.randint(0, model.config.vocab_size, (rows, tokens))
        start, cpu_start = time.perf_counter(), time.process_time()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    n = rows * tokens * steps
    print(json.dumps({
        "tokens_per_second": round(n / sum(wall[1:]), 1),
        "tokens_per_cpu_second": round(n / sum(cpu[1:]), 1),
        "seconds_per_step": round(sum(wall[1:]) / steps, 3),
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }))


if __name__ == "__main__":
    main()
