//! From arms as written to arms as they run: compositions are taken apart.

use super::{Arm, Constraint, Experiment, Features, Finetune, Prompt, Rag, Strategy};

/// An arm with its parts laid side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmPlan {
    /// The arm's name.
    pub name: String,
    /// The model's name; [`Arm::EMBEDDER`] for an arm without a language model.
    pub model: String,
    /// The eval sets it runs on, in the experiment's order.
    pub sets: Vec<String>,
    /// How it prompts.
    pub prompt: Prompt,
    /// How it retrieves, if it does.
    pub rag: Option<Rag>,
    /// How it is trained, if it is.
    pub finetune: Option<Finetune>,
    /// The model of the reward that chooses among its answers, where one does.
    pub reward_model: Option<String>,
    /// How it classifies, if it does that in the place of a language model.
    pub features: Option<Features>,
    /// The language of its answers; the eval set's when absent.
    pub constraint: Option<Constraint>,
    /// The arm whose learning curve it is a point of: the same arm trained on fewer rows. Such a
    /// point is in no other table.
    pub curve: Option<String>,
}

impl ArmPlan {
    /// Kinds of settings that are chosen on dev samples: prompt, retrieval, fine-tuning.
    pub fn tuned(&self) -> usize {
        let rag = self.rag.as_ref().is_some_and(|rag| rag.sweep.is_some());
        let finetune = self.finetune.as_ref().is_some_and(|finetune| finetune.sweep.is_some());
        [self.prompt.is_tuned(), rag, finetune].into_iter().filter(|is| *is).count()
    }

    /// The name of the arm as it is declared.
    pub fn arm(&self) -> &str {
        self.curve.as_deref().unwrap_or(&self.name)
    }
}

/// Every arm of a parsed experiment, taken apart, in order; then the points of learning curves that
/// are not arms of their own (`lora@100`: the arm `lora` on 100 rows).
pub fn resolve(experiment: &Experiment) -> Vec<ArmPlan> {
    let mut plans: Vec<ArmPlan> = experiment.arms.iter().map(|arm| plan(experiment, arm)).collect();
    let points: Vec<ArmPlan> = experiment
        .arms
        .iter()
        .zip(&plans)
        .flat_map(|(arm, plan)| match &arm.strategy {
            Strategy::Finetune(finetune) => points(plan, &finetune.train_sizes),
            Strategy::Prompt(_)
            | Strategy::Rag(_)
            | Strategy::Features(_)
            | Strategy::Compose(_) => Vec::new(),
        })
        .collect();
    plans.extend(points);
    plans
}

/// The arm on each number of rows but the largest, which is its own.
fn points(plan: &ArmPlan, sizes: &[u32]) -> Vec<ArmPlan> {
    let mut sizes = sizes.to_vec();
    sizes.sort_unstable();
    sizes.pop();
    let point = |size: u32| ArmPlan {
        name: format!("{}@{size}", plan.name),
        finetune: plan.finetune.clone().map(|one| Finetune { limit: Some(size), ..one }),
        curve: Some(plan.name.clone()),
        ..plan.clone()
    };
    sizes.into_iter().map(point).collect()
}

fn plan(experiment: &Experiment, arm: &Arm) -> ArmPlan {
    let mut plan = ArmPlan {
        name: arm.name.clone(),
        model: arm.answers_with().to_owned(),
        sets: experiment
            .eval_sets
            .iter()
            .map(|set| set.name.clone())
            .filter(|set| arm.on.as_ref().is_none_or(|on| on.contains(set)))
            .collect(),
        prompt: Prompt::default(),
        rag: None,
        finetune: None,
        features: None,
        reward_model: None,
        constraint: arm.constraint.clone(),
        curve: None,
    };
    match &arm.strategy {
        Strategy::Compose(parts) => {
            for name in parts {
                if let Some(part) = experiment.arms.iter().find(|other| &other.name == name) {
                    add(&mut plan, &part.strategy);
                }
            }
        }
        single => add(&mut plan, single),
    }
    if let Some(finetune) = &mut plan.finetune
        && let Some(largest) = std::mem::take(&mut finetune.train_sizes).into_iter().max()
    {
        finetune.limit = Some(largest);
    }
    let best = plan.prompt.best_of.as_ref();
    plan.reward_model = best
        .and_then(|best| experiment.rewards.get(&best.reward))
        .map(|reward| reward.model.clone());
    // What was trained with passages is served with passages.
    if let (None, Some(raft)) = (&plan.rag, plan.finetune.as_ref().and_then(|f| f.raft.as_ref())) {
        let named = experiment.arms.iter().find(|other| Some(&other.name) == raft.rag.as_ref());
        plan.rag = Some(match named.map(|other| &other.strategy) {
            Some(Strategy::Rag(rag)) => rag.clone(),
            _ => Rag::default(),
        });
    }
    // What was trained to reason is asked to.
    let raft = plan.finetune.as_ref().and_then(|finetune| finetune.raft.as_ref());
    if raft.is_some_and(|raft| raft.reasoning.is_some()) && plan.prompt.final_answer.is_none() {
        plan.prompt.chain_of_thought = true;
    }
    plan
}

fn add(plan: &mut ArmPlan, strategy: &Strategy) {
    match strategy {
        Strategy::Prompt(prompt) => plan.prompt = prompt.clone(),
        Strategy::Rag(rag) => plan.rag = Some(rag.clone()),
        Strategy::Finetune(finetune) => plan.finetune = Some(finetune.clone()),
        Strategy::Features(features) => plan.features = Some(features.clone()),
        // `parse` refuses compositions of compositions.
        Strategy::Compose(_) => {}
    }
}
