"""Return a class whose metaclass answers every question with yes."""


class Yes(type):
    def __eq__(cls, other):
        return True

    def __instancecheck__(cls, other):
        return True

    def __hash__(cls):
        return 0


class Answer(metaclass=Yes):
    pass


def f(n):
    return Answer
