"""How long a sweep took, against one run and then PPO and evaluation alone for each job.

    morlaif sweep=scalarizers && python benchmarks/sweep_time.py runs/sweeps/scalarizers-*

All numbers are of the same sweep on the same machine: the wall time of its jobs, from their run.json, and of its
comparison; the seconds that units took, from the manifests of the store. Jobs run one after another.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

OWN = ("ppo/morlaif", "evaluate")  # what each job of a sweep over scalarizers has to build for itself


def main(folder: Path) -> None:
    jobs = json.loads((folder / "sweep.json").read_text())["jobs"]
    runs = [folder.parents[1] / job["run"] for job in jobs]
    records = [json.loads((run / "run.json").read_text()) for run in runs]
    store = Path(json.loads((runs[0] / "config.json").read_text())["paths"]["store"])
    built = [sum(unit["state"] == "built" for unit in record["units"]) for record in records]
    own = [
        json.loads((store / unit["stage"] / unit["digest"] / "manifest.json").read_text())["seconds"]
        for record in records for unit in record["units"] if unit["name"] in OWN
    ]  # fmt: skip
    compared = [json.loads(path.read_text()) for path in store.glob("compare/*/manifest.json")]
    newest = max(compared, key=lambda manifest: manifest["finished"])["seconds"]
    first, jobs_wall = records[0]["seconds"], sum(record["seconds"] for record in records)
    bound = first + sum(own)
    print(f"jobs                                  {len(jobs):8}   units built in each: {built}")
    print(f"first job, everything built           {first:8.1f} s")
    print(f"ppo/morlaif and evaluate of all jobs    {sum(own):8.1f} s")
    print(f"one run + {len(jobs)} × (ppo + evaluate)      {bound:8.1f} s")
    print(f"all jobs                              {jobs_wall:8.1f} s")
    print(f"the comparison                        {newest:8.1f} s")
    print(f"all jobs and the comparison / bound   {(jobs_wall + newest) / bound:8.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: sweep_time.py RUNS/sweeps/NAME")
    main(Path(sys.argv[1]))
