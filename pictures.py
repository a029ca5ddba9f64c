"""Takes pictures: the catalogue, the document and what Ollama holds, put together, and kept while none of them changes.

look() is fit to be shown, ask() to be decided on, advising() to give advice on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence

from catalog import MODEL_CATALOG
from json_store import JsonStore
from model_core import benchmark_results, measurements
from model_core.benchmark_records import Benchmark
from model_core.document import remember
from model_core.errors import StoreError
from model_core.installed import Inventory
from model_core.picture import Picture
from model_core.records import Document, OllamaSeen, RunningModel
from model_core.speed import Speed
from ollama_client import OllamaClient
from ollama_descriptions import OllamaDescriptions
from ollama_inventory import OllamaInventory, Seen
from ollama_machine import OllamaMachine

logger = logging.getLogger(__name__)


class Pictures:
    """May be used from many threads.

    change      changes the document, and returns it as it is on disk after that
    benchmarks  returns every benchmark that is kept
    """

    def __init__(
        self,
        client: OllamaClient,
        store: JsonStore[Document],
        inventory: OllamaInventory,
        machine: OllamaMachine,
        *,
        change: Callable[[Callable[[Document], Document]], Document],
        benchmarks: Callable[[], Collection[Benchmark]],
        now_text: Callable[[], str],
    ) -> None:
        self._store, self._inventory, self._machine = store, inventory, machine
        self._change, self._benchmarks, self._now_text = change, benchmarks, now_text
        self._descriptions = OllamaDescriptions(client)
        self._last: Picture | None = None
        self._advising: tuple[object, Picture] | None = None

    def look(self) -> tuple[Picture, Seen]:
        """Return a picture that is fit to be shown."""
        seen = self._inventory.look()
        return self._of(self._store.read(), seen.inventory), seen

    def ask(self) -> tuple[Picture, Seen]:
        """Return a picture to decide on, of what Ollama holds this moment. Raises OllamaError."""
        seen = self._inventory.ask()
        return self._of(self._store.read(), seen.inventory), seen

    def last(self) -> Picture:
        """Return a picture of the document as it is, and of what Ollama held when last heard of; ask nobody."""
        return self._of(self._store.read(), self._last.inventory if self._last else Inventory(()))

    def advising(self, gpu: str | None) -> Picture:
        """Return a picture to give advice on: with what is loaded counted, and what nobody has catalogued described.

        gpu  the card that the advice is about; None where it is not known

        What is loaded is not written down here: who only asks changes nothing but what Ollama tells once for all.
        """
        picture, seen = self.look()
        if seen.reachable:
            picture = self.described(picture)
        running, benchmarked = self._machine.loaded(), self._benchmarked(gpu, simulated=seen.simulated)
        if not running and not benchmarked:
            return picture
        key = (picture, running, benchmarked)
        if self._advising is None or self._advising[0] != key:
            document = measurements.with_running(picture.document, running, self._now_text())
            overlaid = Picture(MODEL_CATALOG, document, picture.inventory, running=running, benchmarked=benchmarked)
            self._advising = key, overlaid
        return self._advising[1]

    def _benchmarked(self, gpu: str | None, *, simulated: bool) -> dict[str, Speed]:
        try:
            kept = self._benchmarks()
        except StoreError as error:  # health() says so; advice then rests on estimates
            logger.warning("advice without the benchmarks reason=%s", error)
            return {}
        return benchmark_results.speeds(kept, gpu=gpu, simulated=simulated)

    def described(self, picture: Picture) -> Picture:
        """Return the picture with the numbers of what no catalogue knows; Ollama is asked once for each."""
        unknown = picture.undescribed()
        told = self._descriptions.of(unknown) if unknown else {}
        if not told:
            return picture

        def change(document: Document) -> Document:
            return document.model_copy(update={"described": {**document.described, **told}})

        try:
            document = self._change(change)
        except StoreError as error:  # then it is asked again the next time
            logger.warning("descriptions not kept reason=%s", error)
            document = change(picture.document)
        return self._of(document, picture.inventory)

    def counted(self, runners: Sequence[RunningModel], load_seconds: Mapping[str, float] | None = None) -> Picture:
        """Remember what Ollama counts of what is loaded, and return the picture with it. Raises StoreError.

        load_seconds  what their loads took, by digest, where there was one
        """
        document, at = self._store.read(), self._now_text()
        if measurements.with_running(document, runners, at, load_seconds) is not document:
            document = self._change(lambda now: measurements.with_running(now, runners, at, load_seconds))
        return self._of(document, self.last().inventory)

    def _of(self, document: Document, inventory: Inventory) -> Picture:
        picture = self._last
        if picture is None or picture.document is not document or picture.inventory is not inventory:
            self._last = picture = Picture(MODEL_CATALOG, document, inventory)
        return picture


def with_seen(document: Document, seen: Seen, copied: Mapping[str, str] | None = None) -> Document:
    """Return the document with what Ollama holds now; copied are digests that were just copied, by id."""
    heard = OllamaSeen(checked_at=seen.checked_at, version=seen.version, models=seen.inventory.models)
    return remember(document, heard, Picture(MODEL_CATALOG, document, seen.inventory, copied).shown, copied)
