"""A ReFrame test of an installed latentpatch (ReFrame 4): both demo models, on as many ranks as `ranks` says.

    reframe -C SITE.py -c packaging/reframe -r -S modules=latentpatch -S share=PREFIX/share/latentpatch -S ranks=4

It passes when every control that must change nothing changed nothing, and measures pairs a second of both stages. Give
references for your partitions with -S or in a derived class.
"""

import os

import reframe as rfm
import reframe.utility.sanity as sn


@rfm.simple_test
class LatentpatchDemo(rfm.RunOnlyRegressionTest):
    """Activations, sweep and table of a demo model."""

    model = parameter(["gpt2", "llama"])
    share = variable(str, value="/usr/share/latentpatch")
    ranks = variable(int, value=2)
    descr = "latentpatch: the demo"
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    executable = "latentpatch"
    time_limit = "10m"
    tags = {"science", "smoke"}

    @run_after("init")
    def set_ranks(self):
        self.num_tasks = self.ranks

    @run_before("run")
    def set_options(self):
        # Relative paths would be those of the job file's folder.
        files = {"store.file": "demo.store.h5", "results.file": "demo.results.h5"}
        self.executable_opts = ["run", f"{self.share}/jobs/demo-{self.model}.json"]
        for key, name in files.items():
            self.executable_opts += ["--set", f"{key}={os.path.join(self.stagedir, name)}"]

    @sanity_function
    def controls_are_sound(self):
        return sn.all(
            [
                sn.assert_found(r"^Sound: every control that must change nothing", self.stdout),
                sn.assert_found(rf" on {self.ranks} ranks?,", self.stderr, msg="the launcher did not connect the ranks"),
            ]
        )

    @performance_function("pairs/s")
    def cached(self):
        return sn.extractsingle(r"cache: \d+ of \d+ pairs, ([\d.]+)/s, took", self.stderr, 1, float)

    @performance_function("pairs/s")
    def swept(self):
        return sn.extractsingle(r"sweep: \d+ of \d+ pairs, ([\d.]+)/s, took", self.stderr, 1, float)
