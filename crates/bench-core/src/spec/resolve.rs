//! From arms as written to arms as they run: compositions are taken apart.

use super::{Arm, Constraint, Experiment, Finetune, Prompt, Rag, Strategy};

/// An arm with its parts laid side by side.
#[derive(Clone, Debug, PartialEq)]
pub struct ArmPlan {
    /// The arm's name.
    pub name: String,
    /// The model's name.
    pub model: String,
    /// The eval sets it runs on, in the experiment's order.
    pub sets: Vec<String>,
    /// How it prompts.
    pub prompt: Prompt,
    /// How it retrieves, if it does.
    pub rag: Option<Rag>,
    /// How it is trained, if it is.
    pub finetune: Option<Finetune>,
    /// The language of its answers; the eval set's when absent.
    pub constraint: Option<Constraint>,
}

/// Every arm of a parsed experiment, taken apart, in order.
pub fn resolve(experiment: &Experiment) -> Vec<ArmPlan> {
    experiment.arms.iter().map(|arm| plan(experiment, arm)).collect()
}

fn plan(experiment: &Experiment, arm: &Arm) -> ArmPlan {
    let mut plan = ArmPlan {
        name: arm.name.clone(),
        model: arm.model.clone(),
        sets: experiment
            .eval_sets
            .iter()
            .map(|set| set.name.clone())
            .filter(|set| arm.on.as_ref().is_none_or(|on| on.contains(set)))
            .collect(),
        prompt: Prompt::default(),
        rag: None,
        finetune: None,
        constraint: arm.constraint.clone(),
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
    // What was trained with passages is served with passages.
    if let (None, Some(raft)) = (&plan.rag, plan.finetune.as_ref().and_then(|f| f.raft.as_ref())) {
        let named = experiment.arms.iter().find(|other| Some(&other.name) == raft.rag.as_ref());
        plan.rag = Some(match named.map(|other| &other.strategy) {
            Some(Strategy::Rag(rag)) => rag.clone(),
            _ => Rag::default(),
        });
    }
    plan
}

fn add(plan: &mut ArmPlan, strategy: &Strategy) {
    match strategy {
        Strategy::Prompt(prompt) => plan.prompt = prompt.clone(),
        Strategy::Rag(rag) => plan.rag = Some(rag.clone()),
        Strategy::Finetune(finetune) => plan.finetune = Some(finetune.clone()),
        // `parse` refuses compositions of compositions.
        Strategy::Compose(_) => {}
    }
}
