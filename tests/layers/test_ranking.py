import pytest
import torch

from detkit.layers import best_indices, gather_rows, ranking


@pytest.mark.parametrize("count", [1, 7, 50, 400])
def test_order_is_that_of_a_stable_sort(count):
    torch.manual_seed(0)
    values = torch.randint(0, 6, (3, 400)) / 8  # many ties, zeros among them
    expected = values.sort(dim=-1, descending=True, stable=True).indices[:, :count]
    assert torch.equal(best_indices(values, count), expected)


def test_neighboring_float32_numbers_are_told_apart():
    number = torch.tensor(0.7)
    values = torch.cat([number.nextafter(torch.tensor(0.0)).expand(10), number.expand(2**20)])
    assert best_indices(values, 3).tolist() == [10, 11, 12]
    assert best_indices(values.flip(0), 2**20 + 10)[-1] == 2**20 + 9


def test_absent_entries_come_last_and_short_rows_give_what_they_have():
    assert best_indices(torch.tensor([[-1.0, 0.0, -1.0, 1e-45]]), 9).tolist() == [[3, 1, 0, 2]]


def test_a_device_gives_the_order_that_the_host_gives(monkeypatch):
    torch.manual_seed(0)
    values = torch.randint(-2, 40, (3, 300)).clamp(min=-1) / 8
    here = best_indices(values, 250)
    monkeypatch.setattr(ranking, "values_are_at_hand", lambda tensor: False)
    assert torch.equal(best_indices(values, 250)[values.gather(1, here) >= 0], here[values.gather(1, here) >= 0])


def test_no_number_does_not_break_the_ranking():
    assert best_indices(torch.tensor([0.5, torch.nan, 0.2, -1.0]), 3).tolist() == [1, 0, 2]


def test_rows_of_any_depth():
    values = torch.arange(24.0).view(2, 3, 2, 2)
    index = torch.tensor([[2, 0], [1, 1]])
    assert torch.equal(gather_rows(values, index), torch.stack([values[0, [2, 0]], values[1, [1, 1]]]))
    assert torch.equal(gather_rows(values[..., 0, 0], index), torch.stack([values[0, [2, 0], 0, 0], values[1, [1, 1], 0, 0]]))
