"""The contract suites hold asserts like any test module: pytest must rewrite them too."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("tests.storage.state_contract", "tests.storage.blob_contract")
