// A temporary folder with files of control groups, and the quota that the library reads from them.
#pragma once

#include "thread_limits.hpp"

#include <filesystem>
#include <fstream>
#include <random>
#include <string>

#include <doctest/doctest.h>

/// A folder that is gone when the test is over.
class TemporaryFolder {
public:
    TemporaryFolder() {
        const std::string name = "fused_" + std::to_string(std::random_device()());
        path_ = std::filesystem::temp_directory_path() / name;
        REQUIRE(std::filesystem::create_directory(path_));
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    TemporaryFolder(const TemporaryFolder &) = delete;

    void write(const std::string &name, const std::string &text) const {
        std::filesystem::create_directories((path_ / name).parent_path());
        std::ofstream(path_ / name) << text << '\n';
    }

    std::string file(const std::string &name) const { return (path_ / name).string(); }

    /// The quota that the library reads from the files written here.
    int cpus() const {
        return fused_rmsprop::cgroup_cpus(file("membership").c_str(), file("fs").c_str());
    }

private:
    std::filesystem::path path_;
};
