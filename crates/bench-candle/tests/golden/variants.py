"""Golden values of the other ways to train, on the models that `make.py` wrote.

    pip install torch==2.15.0 transformers==5.23.0 peft==0.21.2
    python variants.py

Writes adapters with DoRA and with rsLoRA into `llama/`, and `variants.json`: what each of them
predicts, the losses of eight steps of each method and the norm of the parameters after them, the
principal parts that PiSSA takes out, and the losses of steps of DPO and ORPO (written out from
their papers, the reference being the same model with its adapter switched off).
"""

import json
import pathlib

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM

HERE = pathlib.Path(__file__).parent
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
STEPS = 8


def base(family):
    model = AutoModelForCausalLM.from_pretrained(HERE / family, dtype=torch.float32)
    return model.eval()


def ids_of(family):
    golden = json.loads((HERE / family / "golden.json").read_text())
    return torch.tensor([golden["ids"]])


def losses(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1].double()
    return F.cross_entropy(logits, ids[0, 1:], reduction="none").tolist()


def norm(parameters):
    return torch.sqrt(sum((p.detach().double() ** 2).sum() for p in parameters)).item()


def steps(model, objective, optimizer=None, rate=1e-2):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optimizer or torch.optim.AdamW(trained, lr=rate, weight_decay=0.1)
    course = []
    for _ in range(STEPS):
        loss = objective(model)
        course.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return dict(course=course, norm=norm(trained))


def plain(ids):
    return lambda model: model(input_ids=ids, labels=ids).loss


def adapted(family, seed=1, **settings):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=MODULES, task_type="CAUSAL_LM",
                        base_model_name_or_path=family, **settings)
    model = get_peft_model(base(family), config)
    torch.manual_seed(seed)
    for key, parameter in model.named_parameters():
        if "lora_A" in key or "lora_B" in key:
            parameter.data = 0.1 * torch.randn_like(parameter)
        elif "magnitude" in key:
            parameter.data = parameter.data * (1 + 0.1 * torch.randn_like(parameter))
    return model.eval()


def only(model, choose):
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(choose(name))
    return model


def log_probability(model, tokens, prompt):
    logits = model(input_ids=tokens).logits[0, :-1]
    each = -F.cross_entropy(logits, tokens[0, 1:], reduction="none")
    return each[prompt - 1:]


def preference(kind, pair, prompt, beta):
    def objective(model):
        chosen, rejected = (log_probability(model, tokens, prompt) for tokens in pair)
        if kind == "dpo":
            with torch.no_grad(), model.disable_adapter():
                reference = [log_probability(model, tokens, prompt).sum() for tokens in pair]
            margin = (chosen.sum() - reference[0]) - (rejected.sum() - reference[1])
            return -F.logsigmoid(beta * margin)
        chosen, rejected = chosen.mean(), rejected.mean()
        odds = lambda x: x - torch.log1p(-torch.exp(x))
        return -chosen - beta * F.logsigmoid(odds(chosen) - odds(rejected))
    return objective


def main():
    golden = {}
    ids = ids_of("llama")
    for name, settings in [("dora", dict(use_dora=True)), ("rslora", dict(use_rslora=True))]:
        model = adapted("llama", **settings)
        folder = HERE / "llama" / name
        model.save_pretrained(folder)
        (folder / "README.md").unlink(missing_ok=True)
        config = json.loads((folder / "adapter_config.json").read_text())
        config["base_model_name_or_path"] = "llama"
        (folder / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")
        golden[name] = dict(adapted=losses(model, ids), **steps(model, plain(ids)))

    model = PeftModel.from_pretrained(base("llama"), HERE / "llama" / "adapter", is_trainable=True).eval()
    plus = create_loraplus_optimizer(model, torch.optim.AdamW, lr=2e-3, loraplus_lr_ratio=8.0,
                                     weight_decay=0.1, loraplus_weight_decay=0.1)
    golden["loraplus"] = steps(model, plain(ids), plus)

    config = LoraConfig(r=4, lora_alpha=8, target_modules=MODULES, init_lora_weights="pissa")
    model = get_peft_model(base("llama"), config)
    principal = {}
    for name, module in model.named_modules():
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            product = module.lora_B["default"].weight @ module.lora_A["default"].weight
            path = name.removeprefix("base_model.model.")
            principal[path] = (2.0 * product).detach().norm().item()
    golden["pissa"] = dict(principal=principal, **steps(model.eval(), plain(ids)))

    for family in ["llama", "llama3", "qwen2", "qwen3", "gemma3"]:
        model = only(base(family), lambda name: True)
        golden[f"full {family}"] = steps(model, plain(ids_of(family)), rate=1e-3)
    for family in ["qwen3", "gemma3"]:
        model = only(base(family), lambda name: ".layers.1." in name or name == "model.norm.weight")
        golden[f"last_layers {family}"] = steps(model, plain(ids_of(family)))
    model = only(base("llama3"), lambda name: name == "lm_head.weight")
    golden["head llama3"] = steps(model, plain(ids_of("llama3")))
    # The output matrix of a tied model gets numbers of its own.
    model = base("gemma3")
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model = only(model, lambda name: name == "lm_head.weight")
    golden["head gemma3"] = steps(model, plain(ids_of("gemma3")))
    model = only(base("qwen2"), lambda name: name.endswith(".bias"))
    golden["bitfit qwen2"] = steps(model, plain(ids_of("qwen2")))

    pair = [ids[:, :30], torch.cat([ids[:, :10], ids[:, 40:]], 1)]
    golden["pair"] = dict(rows=[tokens[0].tolist() for tokens in pair], prompt=10)
    for kind in ["dpo", "orpo"]:
        # A new adapter: at the start the policy is its reference.
        model = PeftModel.from_pretrained(base("llama"), HERE / "llama" / "adapter", is_trainable=True).eval()
        for key, parameter in model.named_parameters():
            if "lora_B" in key:
                parameter.data.zero_()
        golden[kind] = steps(model, preference(kind, pair, 10, 0.3))
    (HERE / "variants.json").write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
