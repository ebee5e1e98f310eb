"""Real weights and a real task: our trainer beside transformers + PEFT on 1,000 rows of ViGGO.

    BENCH_DATA=… python benches/train/viggo.py BENCH [SEED...]

`python` is one with torch, transformers and peft; BENCH is the built program. Everything lies below
`target/viggo` of the working directory, and the same command goes on where it was killed.

Both sides learn the rows that `viggo.yaml` draws, in the layout of the same chat template, with the
same rank, schedule, batch and seeds (a seed gives each side its own order of rows and its own start of
the adapter), and answer the same test rows greedily. PEFT's answers then go into the experiment as
arms of their own, so that both sides are scored, and compared row by row, by the same code.
"""

import csv
import datetime
import hashlib
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).parent
WORK = pathlib.Path("target/viggo")
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
FINETUNE_KEYS = ["lora_r", "lora_alpha", "num_epochs", "learning_rate", "warmup_ratio", "micro_batch_size"]


def rows_of(path):
    return [json.loads(line) for line in pathlib.Path(path).read_text().splitlines() if line.strip()]


def drawn(rows, n, name):
    """The rows that the program draws with `run.seed: 0`."""
    key = lambda place: hashlib.sha256(f"0/{name(place)}".encode()).hexdigest()
    return [rows[place] for place in sorted(sorted(range(len(rows)), key=key)[:n])]


def learn(folder, train, settings, seed):
    """An adapter by PEFT; gives the model, its tokenizer and what training took."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(2)
    torch.manual_seed(seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(
        r=settings["lora_r"], lora_alpha=settings["lora_alpha"], target_modules=MODULES, task_type="CAUSAL_LM"))
    model.config.use_cache = False
    model.train()
    examples = []
    for row in train:
        prompt = tokenizer(prompt_of(tokenizer, row["input"]), add_special_tokens=False)["input_ids"]
        answer = tokenizer(row["reference"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        examples.append((prompt, answer))
    batch, epochs = settings["micro_batch_size"], settings["num_epochs"]
    per_epoch = math.ceil(len(examples) / batch)
    steps = per_epoch * epochs
    warmup = math.ceil(settings["warmup_ratio"] * steps)

    def share(done):
        if done < warmup:
            return (done + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (done - warmup) / max(1, steps - warmup)))

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings["learning_rate"], weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    random = torch.Generator().manual_seed(seed)
    losses, tokens, started = [], 0, time.monotonic()
    for _ in range(epochs):
        order = torch.randperm(len(examples), generator=random).tolist()
        for at in range(0, len(order), batch):
            chosen = [examples[place] for place in order[at:at + batch]]
            longest = max(len(prompt) + len(answer) for prompt, answer in chosen)
            ids = torch.full((len(chosen), longest), tokenizer.pad_token_id)
            labels = torch.full((len(chosen), longest), -100)
            mask = torch.zeros((len(chosen), longest), dtype=torch.long)
            for place, (prompt, answer) in enumerate(chosen):
                whole = prompt + answer
                ids[place, :len(whole)] = torch.tensor(whole)
                labels[place, len(prompt):len(whole)] = torch.tensor(answer)
                mask[place, :len(whole)] = 1
                tokens += len(whole)
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
            if len(losses) % 25 == 0:
                print(f"peft seed {seed}: step {len(losses)} of {steps}, loss {losses[-1]:.3f}", flush=True)
    seconds = time.monotonic() - started
    return model, tokenizer, {"seconds": seconds, "tokens": tokens, "losses": losses}


def prompt_of(tokenizer, text):
    messages = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)


def answers_of(model, tokenizer, test, most):
    import torch

    model.config.use_cache = True
    model.eval()
    tokenizer.padding_side = "left"
    answers = []
    for at in range(0, len(test), 10):
        texts = [prompt_of(tokenizer, row["input"]) for row in test[at:at + 10]]
        batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.no_grad():
            out = model.generate(**batch, max_new_tokens=most, do_sample=False,
                                 eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
        for ids in out[:, batch["input_ids"].shape[1]:]:
            answers.append(tokenizer.decode(ids, skip_special_tokens=True).split("\n")[0])
    return answers


def peft(folder, experiment, train, test, seed):
    path = WORK / f"peft-{seed}.json"
    if not path.exists():
        settings = experiment["arms"][0]["strategy"]["finetune"]
        model, tokenizer, found = learn(folder, train, settings, seed)
        found["answers"] = answers_of(model, tokenizer, test, experiment["eval_sets"][0]["max_tokens"])
        path.write_text(json.dumps(found))
    return json.loads(path.read_text())


def run(bench, *arguments):
    subprocess.run([bench, *arguments], check=True)


def machine():
    lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} virtual cores ({names[0]}), no GPU, load average at the end {os.getloadavg()[0]:.1f}"


def main():
    import yaml

    bench, seeds = sys.argv[1], [int(seed) for seed in sys.argv[2:]] or [0, 1]
    WORK.mkdir(parents=True, exist_ok=True)
    text = (HERE / "viggo.yaml").read_text().replace("${BENCH_DATA}", os.environ["BENCH_DATA"])
    experiment = yaml.safe_load(text)
    spec = experiment["eval_sets"][0]
    settings = experiment["arms"][0]["strategy"]["finetune"]
    settings["learning_rate"] = float(settings["learning_rate"])
    train = drawn(rows_of(spec["train"]), spec["train_limit"], lambda place: f"train/{place}")
    all_tests = rows_of(spec["path"])
    test = drawn(all_tests, spec["limit"], lambda place: all_tests[place]["id"])
    named = subprocess.run([bench, "models", "path", experiment["models"]["small"]["catalog"]],
                           check=True, capture_output=True, text=True)
    folder = named.stdout.strip()
    # Seed by seed, so that what is there after a kill is a whole pair.
    theirs = {}
    for place, seed in enumerate(seeds):
        settings["seeds"] = seeds[:place + 1]
        one = WORK / "viggo.yaml"
        one.write_text(json.dumps(experiment))
        run(bench, "train", str(one))
        theirs[seed] = peft(folder, experiment, train, test, seed)
    # PEFT's answers join the experiment: one arm per seed, whose model says them.
    for seed in seeds:
        # A question that stands in another one comes after it.
        rules = sorted(zip(test, theirs[seed]["answers"]), key=lambda pair: -len(pair[0]["input"]))
        rules = [{"when": row["input"], "say": answer} for row, answer in rules]
        experiment["models"][f"peft_{seed}"] = {"scripted": {"rules": rules, "otherwise": ""}}
        experiment["arms"].append({"name": f"peft_{seed}", "model": f"peft_{seed}", "strategy": {
            "prompt": {"template": settings["template"]}}})
    both = WORK / "viggo.yaml"
    both.write_text(json.dumps(experiment))
    run(bench, "run", str(both))
    report = WORK / "reports" / "viggo"
    manifest = json.loads((report / "manifest.json").read_text())
    ours = {entry["seed"]: entry["outcome"] for entry in manifest["training"]}
    for seed in seeds:
        tokens = ours[seed]["steps"][-1]["tokens"]
        assert tokens == theirs[seed]["tokens"], ("both sides must see the same tokens", tokens, theirs[seed]["tokens"])
    with open(report / "tables" / "summary.csv") as table:
        summary = list(csv.DictReader(table))

    def figures(metric, of):
        return [float(row["value"]) for row in summary if row["metric"] == metric and row["arm"].startswith(of)]

    results_path = HERE / "results.json"
    results = {item["name"]: item for item in json.loads(results_path.read_text())}

    def put(name, unit, value, peer_value, floor, higher, **more):
        results[name] = {
            "name": name, "unit": unit, "value": value, "peer": "transformers + PEFT, f32", "peer_value": peer_value,
            "floor": floor, "higher_is_better": higher, "command": "BENCH_DATA=… viggo.py " + " ".join(
                ["bench", *map(str, seeds)]), "machine": machine(), "date": datetime.date.today().isoformat(), **more}
        print(results[name])

    our_times = [ours[seed]["seconds"] for seed in seeds]
    their_times = [theirs[seed]["seconds"] for seed in seeds]
    put("train_viggo_2_epochs_time", "s", round(statistics.mean(our_times), 1),
        round(statistics.mean(their_times), 1), 45 * 60, False,
        seeds={"ours": our_times, "peer": their_times})
    put("train_viggo_loss_last_epoch", "nats per token",
        *(round(statistics.mean(statistics.mean(losses[len(losses) // 2:]) for losses in side), 4) for side in (
            [[step["loss"] for step in ours[seed]["steps"]] for seed in seeds],
            [theirs[seed]["losses"] for seed in seeds])), None, False)
    for name, metric in [("exact_match", "exact_match"), ("attribute_f1", "functional")]:
        our, their = figures(metric, "lora"), figures(metric, "peft")
        put(f"train_viggo_{name}", "share", round(statistics.mean(our), 4), round(statistics.mean(their), 4), None, True,
            seeds={"ours": our, "peer": their}, rows=len(test),
            difference=difference(report, metric, our, their))
    results_path.write_text(json.dumps(list(results.values()), indent=2) + "\n")


def difference(report, metric, our, their):
    """The mean difference, and each pair of runs with the interval over test rows."""
    with open(report / "tables" / "pairs.csv") as table:
        pairs = [row for row in csv.DictReader(table) if row["metric"] == metric]
    said = [{key: row[key] if key in ("arm_a", "arm_b", "verdict") else float(row[key]) for key in (
        "arm_a", "arm_b", "difference", "ci_low", "ci_high", "verdict")} for row in pairs]
    return {"mean": round(statistics.mean(our) - statistics.mean(their), 4), "pairs": said}


if __name__ == "__main__":
    main()
