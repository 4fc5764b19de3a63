"""The kernel of a run: a fork of the run's process, in which the packages that notebooks import are loaded already.

It waits until papermill asks for a kernel. Our own code isn't among what is loaded: a kernel imports it from the files as
they are then.
"""

import atexit
import json
import multiprocessing
import os
import signal
import sys
from multiprocessing import resource_tracker
from typing import Any

# What notebooks import; loading it takes two seconds, which each run would need otherwise.
import aiosql  # noqa: F401
import cronsim  # noqa: F401
import pandas as pd
import plotly.express as px
import psycopg2.extras  # noqa: F401
import pyspark.sql.connect.session
import pyspark.sql.functions  # noqa: F401
import scrapbook  # noqa: F401
import yaml  # noqa: F401
from ipykernel.kernelapp import IPKernelApp
from IPython.core.autocall import IPyAutocall
from jupyter_client.connect import KernelConnectionInfo
from jupyter_client.jsonutil import json_default
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.local_provisioner import LocalProvisioner
from jupyter_client.session import json_packer

# The first figure of a process loads more of plotly than importing it does.
px.bar(pd.DataFrame({"x": [1], "y": [1]}), x="x", y="y").to_json()


class Kernel:
    """A kernel's process, with the methods of `subprocess.Popen` that jupyter_client calls."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        asks, self._asked = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _serve(asks)
        os.close(asks)

    def begin(self, argv: list[str], env: dict[str, str], cwd: str) -> None:
        """Let the process become a kernel; `argv` names the connection file, which says where it listens."""
        with open(self._asked, "w") as pipe:
            json.dump({"argv": argv, "env": env, "cwd": cwd}, pipe)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it is at work."""
        return self._wait(os.WNOHANG)

    def wait(self) -> int | None:
        """Wait until it ends, and return the exit code."""
        return self._wait(0)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Exit(IPyAutocall):
    """`exit` and `quit` that raise SystemExit, as Python's do; IPython's would end the kernel without an error in the cell."""

    rewrite = False

    def __call__(self, *code: object) -> None:
        """End the run here."""
        raise SystemExit(*code)


class Manager(AsyncKernelManager):  # type: ignore[misc]  # jupyter_client has no types
    """Uses the process that waits instead of starting a new one."""

    kernel: Kernel

    async def _async_pre_start_kernel(self, **options: Any) -> Any:
        self.provisioner = _Provisioner(kernel_id="standby", kernel_spec=self.kernel_spec, parent=self)
        return await super()._async_pre_start_kernel(**options)

    async def _async_interrupt_kernel(self) -> None:
        """Do nothing: jupyter_client interrupts a kernel before it shuts it down, which an idle one logs as an error."""


class _Provisioner(LocalProvisioner):  # type: ignore[misc]
    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        # with its parent's pid the kernel ends when the parent does, and doesn't print how to connect
        argv = [*cmd[cmd.index("ipykernel_launcher") + 1 :], f"--IPKernelApp.parent_handle={os.getpid()}"]
        Manager.kernel.begin(argv, options["env"], os.getcwd())
        self.process = Manager.kernel
        self.pid = self.pgid = self.process.pid
        return self.connection_info


def stand_by() -> None:
    """Fork the process of this run's kernel; to be called while this process has a single thread."""
    Manager.kernel = Kernel()


def _serve(asks: int) -> None:
    """Wait until a kernel is asked for, run as that kernel, and end this process."""
    try:
        # in a group of its own, so that an interrupt reaches the kernel and what it starts, but not the run's process
        os.setpgid(0, 0)
        os.closerange(3, asks)
        os.closerange(asks + 1, os.sysconf("SC_OPEN_MAX"))
        with open(asks) as pipe:
            asked = pipe.read()
        if asked:
            _be_kernel(**json.loads(asked))
    except SystemExit:
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(0)


def _pack(message: Any) -> bytes:
    """A message as bytes; where it holds half of a surrogate pair, on which the usual way fails, with JSON escapes."""
    try:
        return bytes(json_packer(message))
    except UnicodeEncodeError:
        return json.dumps(message, default=json_default).encode()


def _be_kernel(argv: list[str], env: dict[str, str], cwd: str) -> None:
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # the run's process is a daemon of multiprocessing, which may have no children; a notebook may
    multiprocessing.current_process().daemon = False
    # the inherited tracker of shared memory isn't a child of this process, so it starts without one
    resource_tracker._resource_tracker.__init__()  # type: ignore[misc]
    for name in [name for name in sys.modules if name.partition(".")[0] == "lib"]:
        del sys.modules[name]
    app = IPKernelApp.instance()
    app.initialize(argv)  # type: ignore[no-untyped-call]
    app.shell.user_ns.update(exit=Exit(app.shell), quit=Exit(app.shell))  # type: ignore[union-attr, no-untyped-call]
    app.session.pack = _pack
    app.start()  # type: ignore[no-untyped-call]
    # its clean-up can wait for a thread that waits for it, and everything ends with the process anyway
    atexit.unregister(app.close)
