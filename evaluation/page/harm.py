"""What the front leaves open: which labels its models newly get wrong, and what else might be on it."""

from __future__ import annotations

from evaluation.flip_files import flip_table
from evaluation.page.columns import truth
from evaluation.page.markup import number, size, speed_up, table, verdict
from evaluation.page.models import PageModels
from evaluation.page.summary import recommended
from evaluation.study_files import Study
from pipeline.chains import describe_chain

MOST_ROWS = 30
_KIND_TITLES = {"newly_missed": "Newly missed", "newly_false": "Newly false"}
_GAIN_TITLES = {"newly_found": "Newly found", "newly_cleared": "Newly cleared"}


def flips_section(study: Study, models: PageModels) -> str:
    """Label by label, what the models to recommend decide otherwise than the teacher on test; a note where unknown."""
    places = list(dict.fromkeys(recommended(models).values()))
    if study.flips is None or not places:
        return '<p class="note">Known when the study has ended with a model that can be recommended.</p>'
    counted = flip_table(study.flips, models.rows.iloc[places])
    counted = counted[counted["split"] == "test"]
    titles = {"model": "Model", "label": "Label", "support": "Has label", **_KIND_TITLES, **_GAIN_TITLES}
    return table(
        list(titles.values()),
        [tuple(row) for row in counted[list(titles)].itertuples(index=False)],
        caption=f"Test comments that model and teacher decide otherwise; critical label: {study.critical_label}",
        numeric=set(titles.values()) - {"Model", "Label"},
    )


def noise_section(study: Study, models: PageModels) -> str:
    """The compressed models that are off the front by no more than measuring can be wrong."""
    if study.within_noise is None:
        return ""
    off_front = ~study.within_noise["model_key"].isin(models.rows["model_key"][truth(models.rows, "on_front")])
    compressed = study.within_noise["stage"] != "baseline"
    rows = study.within_noise[off_front & compressed].drop_duplicates("model_key")
    if rows.empty:
        return '<p class="note">Every other model is off the front by more than noise.</p>'
    listed = [{str(name): value for name, value in row.items()} for row in rows.head(MOST_ROWS).to_dict("records")]
    left = len(rows) - len(listed)
    more = f'<p class="note">And {left:,} more in front_within_noise.parquet.</p>' if left else ""
    return more + table(
        ("Model", "F1 val", "MB", "Speed-up", "Verdict val", "Key"),
        [
            (
                describe_chain(row),
                number(row["f1_macro"]),
                size(row["model_size_mb"]),
                speed_up(row),
                verdict(row["safety_verdict"]),
                str(row["model_key"])[:8],
            )
            for row in listed
        ],
        caption="Off the front only within noise: on other comments one of these might have the higher macro F1",
        numeric={"F1 val", "MB", "Speed-up"},
    )
