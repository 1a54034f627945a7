"""Who steps vLLM's engine: a process of its own, or a thread of this one.

A process of its own keeps what goes on beside the model from the GPU's heels. On CPUs it would
take cores from the model and import and load everything a second time: there a thread steps the
engine, as vLLM's offline `LLM` does. Either way a request is one call that returns its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from concurrent.futures import Future
from typing import Any, NamedTuple

from semievol_ray.engines.protocol import EngineDied


class ProcessDriver:
    """vLLM's AsyncLLM."""

    # Of the engine's process nothing is heard between a request and its end.
    steps = 0

    def __init__(self, arguments: Any) -> None:
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        # Batches as large as those of vLLM's offline engine: nobody waits for a first token here.
        self.engine = AsyncLLM.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        self.max_model_len = int(self.engine.model_config.max_model_len)
        self._ids = map(str, itertools.count())

    async def run(self, prompt: list[int], parameters: Any, lora: Any) -> Any:
        """The final output of one request; null where vLLM refuses the request itself.

        Raises EngineDied where the engine ended.
        """
        from vllm.inputs.engine import tokens_input
        from vllm.v1.engine.exceptions import EngineDeadError

        final = None
        try:
            async for output in self.engine.generate(
                tokens_input(prompt), parameters, next(self._ids), lora_request=lora
            ):
                final = output
        except ValueError:
            return None
        except EngineDeadError:
            raise EngineDied("vLLM's engine process died") from None
        return final

    def shutdown(self) -> None:
        """End the engine's process."""
        self.engine.shutdown()


class _Submitted(NamedTuple):
    prompt: list[int]
    parameters: Any
    lora: Any
    loop: asyncio.AbstractEventLoop
    final: asyncio.Future[Any]

    def settle(self, found: Any) -> None:
        """Hand an output, or an error, to who waits for it."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self.loop.call_soon_threadsafe(_settle, self.final, found)


class ThreadDriver:
    """vLLM's LLMEngine, stepped for as long as anything is asked of it."""

    def __init__(self, arguments: Any) -> None:
        self._inbox: queue.SimpleQueue[_Submitted | None] = queue.SimpleQueue()
        self._end: EngineDied | None = None
        self.steps = 0
        made: Future[Any] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(arguments, made), name="vllm-steps", daemon=True
        )
        self._thread.start()
        self.engine = made.result()
        self.max_model_len = int(self.engine.model_config.max_model_len)

    async def run(self, prompt: list[int], parameters: Any, lora: Any) -> Any:
        """See ProcessDriver.run."""
        loop = asyncio.get_running_loop()
        submitted = _Submitted(prompt, parameters, lora, loop, loop.create_future())
        self._inbox.put(submitted)
        if self._end is not None:  # whoever was in the inbox before has been told
            self._refuse_all(self._end)
        return await submitted.final

    def shutdown(self) -> None:
        """End the thread and the engine."""
        self._inbox.put(None)
        self._thread.join()

    def _serve(self, arguments: Any, made: Future[Any]) -> None:
        try:
            from vllm.usage.usage_lib import UsageContext
            from vllm.v1.engine.llm_engine import LLMEngine

            # Made in the thread that steps it: OpenMP counts threads for each thread apart.
            engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        except BaseException as error:
            made.set_exception(error)
            return
        made.set_result(engine)
        waiting: dict[str, _Submitted] = {}
        end = EngineDied("vLLM's engine was closed")
        try:
            while self._admit(engine, waiting):
                self.steps += 1
                for output in engine.step():
                    waiting.pop(output.request_id).settle(output)
        except Exception as error:
            end = EngineDied(f"vLLM's engine failed: {type(error).__name__}: {error}")
        for submitted in waiting.values():
            submitted.settle(end)
        self._end = end
        self._refuse_all(end)
        engine.engine_core.shutdown()

    def _admit(self, engine: Any, waiting: dict[str, _Submitted]) -> bool:
        """Hand the engine what was submitted, and wait for it where nothing is left to do.

        False once the end was asked for.
        """
        while True:
            try:
                submitted = self._inbox.get(block=not waiting)
            except queue.Empty:
                return True
            if submitted is None:
                return False
            _add(engine, submitted, waiting)

    def _refuse_all(self, error: EngineDied) -> None:
        """Tell all who are in the inbox that there will be no answer."""
        with contextlib.suppress(queue.Empty):
            while True:
                submitted = self._inbox.get_nowait()
                if submitted is not None:
                    submitted.settle(error)


_ids = map(str, itertools.count())


def _add(engine: Any, submitted: _Submitted, waiting: dict[str, _Submitted]) -> None:
    from vllm.inputs.engine import tokens_input

    number = next(_ids)
    try:
        engine.add_request(
            number, tokens_input(submitted.prompt), submitted.parameters,
            lora_request=submitted.lora,
        )  # fmt: skip
    except ValueError:
        submitted.settle(None)
    except Exception as error:  # its caller's to raise; the thread serves the others
        submitted.settle(error)
    else:
        waiting[number] = submitted


def _settle(final: asyncio.Future[Any], found: Any) -> None:
    if final.done():  # nobody waits any more
        return
    if isinstance(found, Exception):
        final.set_exception(found)
    else:
        final.set_result(found)
